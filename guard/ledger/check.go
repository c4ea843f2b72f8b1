package ledger

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// The layout of a bbolt file (go.etcd.io/bbolt, version 2 of its format), in the
// byte order of the host. Every page begins with its number, type, number of
// elements and number of pages that follow it as one.
const (
	headerSize  = 16
	elementSize = 16
	metaSize    = 64
	magic       = 0xED0CDAED
	version     = 2

	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10

	maxDepth = 32
	maxSize  = 1 << 30 // a full ledger has some 10 MiB
)

var order = binary.NativeEndian

// page is one page in memory with those that follow it as one.
type page struct {
	id    uint64
	kind  uint16
	count uint16
	data  []byte // header included
}

// checker follows a file as bbolt would, by reading alone, and within bounds.
type checker struct {
	r        io.ReaderAt
	pageSize int64
	used     []bool // pages that were met
}

// check says what is wrong with a file, as far as bbolt could come to harm.
func check(r io.ReaderAt, size int64) error {
	if size > maxSize {
		return fmt.Errorf("it has %d bytes, no ledger has so many", size)
	}
	m, err := newestMeta(r, size)
	if err != nil {
		return err
	}
	c := checker{r, int64(m.pageSize), make([]bool, m.pages)}
	if err := c.freelist(m.freelist); err != nil {
		return err
	}
	return c.tree(m.root, true)
}

// meta is what the newest of the two meta pages says.
type meta struct {
	pageSize              uint32
	root, freelist, pages uint64
	txid                  uint64
}

// newestMeta finds the meta page that bbolt goes by. The second one is a page
// behind the first, and the size of a page stands in either.
func newestMeta(r io.ReaderAt, size int64) (meta, error) {
	m, found := metaAt(r, 0)
	for at := int64(1 << 10); at <= 1<<16; at <<= 1 {
		if other, ok := metaAt(r, at); ok && int64(other.pageSize) == at && (!found || other.pageSize == m.pageSize && other.txid > m.txid) {
			m, found = other, true
		}
	}
	switch {
	case !found:
		return m, errors.New("it has no intact first page")
	case m.pageSize < 1<<10 || m.pageSize > 1<<16 || m.pageSize&(m.pageSize-1) != 0:
		return m, fmt.Errorf("pages of %d bytes", m.pageSize)
	case m.pages < 4 || m.pages > uint64(size)/uint64(m.pageSize):
		return m, fmt.Errorf("%d pages in %d bytes: it was cut short", m.pages, size)
	}
	return m, nil
}

func metaAt(r io.ReaderAt, at int64) (m meta, ok bool) {
	var b [metaSize]byte
	if _, err := r.ReadAt(b[:], at+headerSize); err != nil {
		return m, false
	}
	sum := fnv.New64a()
	sum.Write(b[:56])
	m = meta{pageSize: order.Uint32(b[8:]), root: order.Uint64(b[16:]), freelist: order.Uint64(b[32:]),
		pages: order.Uint64(b[40:]), txid: order.Uint64(b[48:])}
	return m, order.Uint32(b[0:]) == magic && order.Uint32(b[4:]) == version && order.Uint64(b[56:]) == sum.Sum64()
}

// page reads a page that nothing else has led to yet.
func (c *checker) page(id uint64) (page, error) {
	first, err := c.read(id, 1)
	if err != nil {
		return page{}, err
	}
	more := uint64(order.Uint32(first[12:]))
	p := page{id: id, kind: order.Uint16(first[8:]), count: order.Uint16(first[10:]), data: first}
	if order.Uint64(first) != id {
		return p, fmt.Errorf("page %d says that it is another", id)
	}
	if more > 0 {
		if p.data, err = c.read(id, more+1); err != nil {
			return p, err
		}
	}
	for i := id; i <= id+more; i++ {
		if err := c.use(i); err != nil {
			return p, err
		}
	}
	return p, nil
}

func (c *checker) read(id, n uint64) ([]byte, error) {
	all := uint64(len(c.used))
	if id < 2 || id >= all || n > all-id {
		return nil, fmt.Errorf("page %d does not exist", id)
	}
	b := make([]byte, int64(n)*c.pageSize)
	if _, err := c.r.ReadAt(b, int64(id)*c.pageSize); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	return b, nil
}

// use notes that something leads to a page. Two that do would make bbolt write
// over what is in use, or follow a circle for ever.
func (c *checker) use(id uint64) error {
	if id < 2 || id >= uint64(len(c.used)) {
		return fmt.Errorf("page %d does not exist", id)
	}
	if c.used[id] {
		return fmt.Errorf("page %d is used twice", id)
	}
	c.used[id] = true
	return nil
}

// freelist checks the list of free pages.
func (c *checker) freelist(id uint64) error {
	p, err := c.page(id)
	if err != nil {
		return err
	}
	n, ids := uint64(p.count), p.data[headerSize:]
	if p.count == 0xFFFF { // then the number stands before the list
		n, ids = order.Uint64(ids), ids[8:]
	}
	if p.kind != freelistPage || n > uint64(len(ids))/8 {
		return fmt.Errorf("page %d is no list of free pages", id)
	}
	for i := range n {
		if err := c.use(order.Uint64(ids[8*i:])); err != nil {
			return err
		}
	}
	return nil
}

// span is which keys may be below a page: the first of them is the one that leads
// there, or bbolt would not find that entry again when it moves the page; all are
// before the next one. nil: any.
type span struct{ first, before []byte }

// tree checks a bucket. The root's rows are buckets, theirs are values.
func (c *checker) tree(root uint64, ofBuckets bool) error {
	depth := 0
	return c.node(root, span{}, 1, &depth, ofBuckets)
}

func (c *checker) node(id uint64, within span, depth int, leaves *int, ofBuckets bool) error {
	p, err := c.page(id)
	switch {
	case err != nil:
		return err
	case depth > maxDepth:
		return errors.New("its tree is too deep")
	case p.kind == leafPage && *leaves != 0 && *leaves != depth:
		return fmt.Errorf("page %d is at another depth than the others", id)
	case p.kind == leafPage:
		*leaves = depth
		if p.count == 0 && depth > 1 {
			return fmt.Errorf("page %d is empty", id)
		}
		return c.leaf(p, within, ofBuckets)
	case p.kind != branchPage || p.count == 0:
		return fmt.Errorf("page %d is of no kind that belongs there", id)
	}
	keys, err := p.keys(within, 0)
	for i := 0; err == nil && i < len(keys); i++ {
		below := span{keys[i], within.before}
		if i+1 < len(keys) {
			below.before = keys[i+1]
		}
		err = c.node(order.Uint64(p.element(i)[8:]), below, depth+1, leaves, ofBuckets)
	}
	return err
}

func (p page) element(i int) []byte { return p.data[headerSize+i*elementSize:] }

// keys reads and checks the keys of a page. Of an element, position and length
// of the key stand at an offset that depends on the page's kind.
func (p page) keys(within span, at int) ([][]byte, error) {
	if headerSize+int(p.count)*elementSize > len(p.data) {
		return nil, fmt.Errorf("page %d has more elements than room", p.id)
	}
	keys := make([][]byte, p.count)
	for i := range keys {
		e := p.element(i)
		pos, n := uint64(order.Uint32(e[at:])), uint64(order.Uint32(e[at+4:]))
		if n == 0 || pos+n > uint64(len(e)) || pos < elementSize {
			return nil, fmt.Errorf("page %d: element %d is out of bounds", p.id, i)
		}
		keys[i] = e[pos : pos+n]
		if i > 0 && bytes.Compare(keys[i-1], keys[i]) >= 0 || i == 0 && within.first != nil && !bytes.Equal(keys[i], within.first) ||
			within.before != nil && bytes.Compare(keys[i], within.before) >= 0 {
			return nil, fmt.Errorf("page %d: key %d is out of order", p.id, i)
		}
	}
	return keys, nil
}

// leaf checks the rows of a page.
func (c *checker) leaf(p page, within span, ofBuckets bool) error {
	keys, err := p.keys(within, 4)
	if err != nil {
		return err
	}
	for i, k := range keys {
		e := p.element(i)
		start := uint64(order.Uint32(e[4:])) + uint64(len(k))
		end := start + uint64(order.Uint32(e[12:]))
		isBucket := order.Uint32(e) == 1
		if end > uint64(len(e)) || isBucket != ofBuckets || order.Uint32(e) > 1 {
			return fmt.Errorf("page %d: row %d is out of bounds", p.id, i)
		}
		if isBucket {
			if err := c.bucket(e[start:end]); err != nil {
				return err
			}
		}
	}
	return nil
}

// bucket checks a bucket by its row: the number of its first page, or, where that
// is none, the only page itself.
func (c *checker) bucket(b []byte) error {
	if len(b) < headerSize {
		return errors.New("a bucket is cut short")
	}
	if root := order.Uint64(b); root != 0 {
		return c.tree(root, false)
	}
	if b = b[headerSize:]; len(b) < headerSize {
		return errors.New("a bucket is cut short")
	}
	p := page{kind: order.Uint16(b[8:]), count: order.Uint16(b[10:]), data: b}
	if p.kind != leafPage || order.Uint64(b) != 0 {
		return errors.New("a bucket within its row is damaged")
	}
	return c.leaf(p, span{}, false)
}
