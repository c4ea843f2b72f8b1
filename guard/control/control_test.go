package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ntpveil/guard"
)

// fake is a daemon whose status a test sets.
type fake struct {
	mu      sync.Mutex
	status  guard.Status
	changed chan struct{}
	orders  []string
	refuse  error
	looks   int
}

func (f *fake) Status(ctx context.Context) (guard.Status, <-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status, f.changed, ctx.Err()
}

func (f *fake) Look(context.Context) error { f.looks++; return nil }

func (f *fake) OrderRules(_ context.Context, verb, preset string, d time.Duration, from guard.Session) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.orders = append(f.orders, verb+" "+preset+" "+d.String()+" "+from.ID)
	return f.refuse
}

func (f *fake) Diff(_ context.Context, preset string) (before, after string, err error) {
	return "before\n", "after " + preset + "\n", nil
}

func (f *fake) Order(_ context.Context, verb string, d time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.orders = append(f.orders, verb+" "+d.String())
	return f.refuse
}

// serve serves a fake to peers of a rank.
func serve(t *testing.T, who rank) (*fake, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "run", "control.sock")
	s, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s.peerOf = func(*net.UnixConn) peer { return peer{uid: 1000, rank: who} }
	f := &fake{changed: make(chan struct{}), status: guard.Status{Version: "1", Exposures: []guard.ExposureStatus{{Address: "2001:db8::1"}}, ExposureCount: 1,
		Others: []guard.OtherStatus{{Prefix: "192.0.2.0/24", Dropped: 7}}, OthersDropped: 7}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, f) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f, path
}

func TestWhoMayDoWhat(t *testing.T) {
	for verb, may := range verbs {
		for who := everyone; who <= root; who++ {
			f, path := serve(t, who)
			f.status.Synchronized = true
			_, err := Call(t.Context(), path, Request{Verb: verb})
			if denied := errors.Is(err, ErrNotPermitted); denied != (who < may) {
				t.Errorf("%s by %s: %v", verb, rankNames[who], err)
			}
		}
	}
}

func TestExposuresAreForTheGroup(t *testing.T) {
	for who, want := range map[rank]int{everyone: 0, group: 1, root: 1} {
		f, path := serve(t, who)
		s, err := Call(t.Context(), path, Request{Verb: "status"})
		if err != nil || len(s.Exposures) != want || len(s.Others) != want || s.OthersDropped != uint64(7*want) || s.ExposureCount != 1 {
			t.Errorf("%s sees %+v, error %v", rankNames[who], s, err)
		}
		f.status.Exposures = []guard.ExposureStatus{}
		if s, err = Call(t.Context(), path, Request{Verb: "status"}); err != nil || (s.Exposures != nil) != (who > everyone) {
			t.Errorf("%s sees %+v of none, error %v", rankNames[who], s, err)
		}
	}
}

func TestOrdersAndRefusals(t *testing.T) {
	f, path := serve(t, root)
	if _, err := Call(t.Context(), path, Request{Verb: "disarm", For: "1h"}); err != nil {
		t.Error(err)
	}
	f.refuse = errors.New("every server was asked")
	if _, err := Call(t.Context(), path, Request{Verb: "sync"}); err == nil || err.Error() != "every server was asked" {
		t.Error(err)
	}
	if got := strings.Join(f.orders, ","); got != "disarm 1h0m0s,sync 0s" {
		t.Error(got)
	}
}

func TestWaitsync(t *testing.T) {
	f, path := serve(t, everyone)
	for _, length := range []string{"20ms", "1ns"} {
		if _, err := Call(t.Context(), path, Request{Verb: "waitsync", For: length}); err == nil || !strings.Contains(err.Error(), "in time") {
			t.Errorf("not synchronised in %s: %v", length, err)
		}
	}
	done := make(chan error, 1)
	go func() { _, err := Call(t.Context(), path, Request{Verb: "waitsync"}); done <- err }()
	f.mu.Lock()
	f.status.Synchronized = true
	close(f.changed)
	f.changed = make(chan struct{})
	f.mu.Unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestBadRequestsGetAnAnswer(t *testing.T) {
	_, path := serve(t, root)
	for line, want := range map[string]string{
		"not json":                              "read request",
		`{"verb":"dance"}`:                      "unknown verb",
		`{"verb":"disarm","for":"a while"}`:     "no duration",
		`{"verb":"disarm","for":"-1h"}`:         "no duration",
		`{"verb":"` + strings.Repeat("x", 9000): "longer",
	} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte(line + "\n"))
		answer, err := bufio.NewReader(c).ReadString('\n')
		var r Reply
		if err != nil || json.Unmarshal([]byte(answer), &r) != nil || !strings.Contains(r.Error, want) {
			t.Errorf("%.40s: %q, %v", line, answer, err)
		}
		c.Close()
	}
}

func TestNobodyListens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	if _, err := Call(t.Context(), path, Request{Verb: "status"}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("no socket: %v", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := Call(t.Context(), path, Request{Verb: "status"}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("a dead socket: %v", err)
	}
	s, err := Listen(path)
	if err != nil {
		t.Fatalf("a dead socket is not replaced: %v", err)
	}
	defer s.listener.Close()
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "another daemon") {
		t.Errorf("a second daemon: %v", err)
	}
}

func TestWhatIsNoSocketStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, "/dev/null"} {
		if _, err := Listen(p); err == nil {
			t.Errorf("%s was replaced", p)
		}
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Errorf("the file is %q", b)
	}
}

func TestOwnCredentials(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	c, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	uid, gids, err := credentials(c)
	if err != nil || int(uid) != os.Getuid() || len(gids) == 0 || int(gids[0]) != os.Getgid() {
		t.Errorf("uid %d, groups %v, error %v", uid, gids, err)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"verb":"disarm","for":"1h"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, d, err := parse(line)
		if err == nil && (d < 0 || d > WaitMost || verbs[r.Verb] > root) {
			t.Errorf("%+v %s", r, d)
		}
	})
}

func FuzzReply(f *testing.F) {
	f.Add([]byte(`{"status":{"version":"1"}}`))
	f.Fuzz(func(_ *testing.T, line []byte) { _, _ = read(line) })
}

// dial opens a connection that stays for the test.
func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestNobodyDelaysTheStop: not who says nothing, nor who sends without end, nor
// who reads no reply.
func TestNobodyDelaysTheStop(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	s, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s.peerOf = func(*net.UnixConn) peer { return peer{rank: root} }
	f := &fake{changed: make(chan struct{}), refuse: errors.New(strings.Repeat("x", 1<<20))}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, f) }()
	dial(t, path)
	for _, reads := range []int64{1, 1 << 40} {
		c := dial(t, path)
		go func() {
			for err := error(nil); err == nil; {
				_, err = c.Write([]byte(`{"verb":"arm"}` + "\n"))
			}
		}()
		go func() { _, _ = io.CopyN(io.Discard, c, reads) }()
	}
	if _, err := Call(t.Context(), path, Request{Verb: "arm"}); err == nil {
		t.Error("no reply")
	}
	cancel()
	select {
	case <-done:
	case <-time.After(readWithin / 2):
		t.Error("the socket is served on after the stop")
	}
}

// TestWaitsyncAtStop: who waits is told why it is over, also where the stop comes while
// the status is looked at.
func TestWaitsyncAtStop(t *testing.T) {
	for name, within := range map[string]bool{"waiting": false, "looking": true} {
		t.Run(name, func(t *testing.T) { waitsyncAtStop(t, within) })
	}
}

func waitsyncAtStop(t *testing.T, within bool) {
	path := filepath.Join(t.TempDir(), "sock")
	s, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{}, 1)
	f := &asking{fake: fake{changed: make(chan struct{})}, asked: asked, within: within}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, f) }()
	go func() {
		<-asked
		cancel()
	}()
	if _, err := Call(t.Context(), path, Request{Verb: "waitsync", For: "1m"}); err == nil || err.Error() != "the daemon is stopping" {
		t.Error(err)
	}
	<-done
}

// asking tells when it is asked for its status, and looks until it is not wanted any more.
type asking struct {
	fake
	asked  chan struct{}
	within bool
}

func (a *asking) Status(ctx context.Context) (guard.Status, <-chan struct{}, error) {
	a.asked <- struct{}{}
	if a.within {
		<-ctx.Done()
		return guard.Status{}, nil, ctx.Err()
	}
	return a.fake.Status(ctx)
}

// TestNobodyKeepsRootOut: places are by rank and by user, and who leaves gives
// his back.
func TestNobodyKeepsRootOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	s, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	whos := make(chan peer, 100)
	s.peerOf = func(*net.UnixConn) peer { return <-whos }
	f := &fake{changed: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, f) }()
	defer func() { cancel(); <-done }()

	// ask connects as somebody; it reports whether there was a place.
	ask := func(who peer, verb string) (net.Conn, bool) {
		whos <- who
		c := dial(t, path)
		_, _ = c.Write([]byte(`{"verb":"` + verb + `"}` + "\n"))
		if verb == "waitsync" {
			return c, true
		}
		reply, err := bufio.NewReader(c).ReadString('\n')
		return c, err == nil && !strings.Contains(reply, "too many")
	}
	var first net.Conn
	for uid := range uint32(10) {
		for range placesOfUser + 1 {
			c, _ := ask(peer{uid: 1000 + uid}, "waitsync")
			if first == nil {
				first = c
			}
		}
	}
	if _, ok := ask(peer{uid: 2000}, "status"); ok {
		t.Error("the places of everyone have no end")
	}
	whos <- peer{uid: 2000}
	if _, err := Call(t.Context(), path, Request{Verb: "status"}); err == nil || err.Error() != "too many ask at a time: try again" {
		t.Errorf("without a place: %v", err)
	}
	if _, ok := ask(peer{rank: root}, "arm"); !ok {
		t.Error("root is kept out")
	}
	first.Close()
	for ok := false; !ok; { // until the server has seen it
		_, ok = ask(peer{uid: 2000}, "status")
	}
}

// TestLooksAreNotForEveryone: a status for everyone does not have the kernel looked at.
func TestLooksAreNotForEveryone(t *testing.T) {
	for who, want := range map[rank]int{everyone: 0, group: 1, root: 1} {
		f, path := serve(t, who)
		if _, err := Call(t.Context(), path, Request{Verb: "status"}); err != nil {
			t.Fatal(err)
		}
		if f.looks != want {
			t.Errorf("%s: %d looks", rankNames[who], f.looks)
		}
	}
}

// TestRefused: what the daemon refused is told from what may come true yet.
func TestRefused(t *testing.T) {
	for line, want := range map[string]bool{`{"error":"no"}`: true, `{"error":"time is up","unsure":true}`: false, `{"error":"no"`: false} {
		_, err := read([]byte(line))
		var refused Refused
		if err == nil || errors.As(err, &refused) != want {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// fullRow is a name that somebody listens at, where everybody who connects waits,
// and there is no room for more.
func fullRow(t *testing.T, name string) (listens int) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: name}), syscall.Listen(fd, 1)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		c, err := net.Dial("unix", name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
	if _, err := net.Dial("unix", name); !errors.Is(err, syscall.EAGAIN) {
		t.Fatalf("there is room for more: %v", err)
	}
	return fd
}

// TestAFullRowIsWaitedFor: who fills it keeps nobody out for long, lets no second
// daemon start, and takes no socket away.
func TestAFullRowIsWaitedFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	fd := fullRow(t, path)
	if _, err := Listen(path); err == nil {
		t.Fatal("another daemon listens in its place")
	}
	answer := func(fd, times int) {
		for range times {
			c, _, err := syscall.Accept(fd)
			if err != nil {
				return
			}
			_, _ = syscall.Write(c, []byte("{}\n"))
			defer syscall.Close(c)
		}
	}
	time.AfterFunc(100*time.Millisecond, func() { answer(fd, 3) })
	if _, err := Ask(t.Context(), path, Request{Verb: "status"}); err != nil {
		t.Error(err)
	}
	name := ownName(t)
	fd = fullRow(t, name)
	time.AfterFunc(100*time.Millisecond, func() { answer(fd, 3) })
	if _, err := claim(name); !errors.Is(err, ErrNotAlone) {
		t.Errorf("a second daemon starts: %v", err)
	}
}
