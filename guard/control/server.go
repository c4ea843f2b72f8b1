package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"ntpveil/guard"
)

const (
	readWithin = 10 * time.Second
	writeAtEnd = time.Second           // for the last reply, once the daemon stops
	rest       = 50 * time.Millisecond // after a connection that could not be taken
)

var past = time.Unix(1, 0) // a deadline that ends at once what waits

// Daemon is what the socket speaks for.
type Daemon interface {
	// Look makes the next status as fresh as it can be.
	Look(ctx context.Context) error
	// Status is the status now, and a channel that is closed when it may have changed.
	Status(ctx context.Context) (guard.Status, <-chan struct{}, error)
	// Order carries out sync, step, disarm or arm, and waits for its end.
	Order(ctx context.Context, verb string, d time.Duration) error
	// OrderRules carries out apply, confirm or revert, and waits for its end.
	OrderRules(ctx context.Context, verb, preset string, d time.Duration, from guard.Session) error
	// Diff is what is in force and what would be with a preset, as nft text.
	Diff(ctx context.Context, preset string) (before, after string, err error)
}

// Server is a listening socket.
type Server struct {
	listener *net.UnixListener
	peerOf   func(*net.UnixConn) peer
}

// Listen opens the socket. One that nobody listens on any more is replaced; what
// is no socket, or is alive, is an error.
func Listen(path string) (*Server, error) {
	if err := clear(path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o666); err != nil { // credentials decide, not the mode
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), l.Close())
	}
	return &Server{listener: l, peerOf: peerOf}, nil
}

// clear makes way for the socket.
func clear(path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.Mode()&fs.ModeSocket == 0:
		return errors.New("something that is no socket is there")
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) { // nil, or so many wait that there is no room for us
		return errors.New("another daemon listens there")
	}
	return os.Remove(path)
}

// Serve answers until ctx is done.
func (s *Server) Serve(ctx context.Context, d Daemon) error {
	stop := context.AfterFunc(ctx, func() { _ = s.listener.Close() })
	defer stop()
	var peers sync.WaitGroup
	defer peers.Wait()
	room := places{byUser: map[uint32]int{}}
	for {
		c, err := s.listener.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept: %w", err)
		case err != nil: // a peer that is gone already, or no descriptor left: the next may do
			time.Sleep(rest)
			continue
		}
		who := s.peerOf(c)
		if !room.take(who) {
			_ = c.SetWriteDeadline(time.Now().Add(rest)) // the buffer of a new connection has room
			(&session{conn: c}).send(Reply{Error: "too many ask at a time: try again"})
			_ = c.Close()
			continue
		}
		peers.Add(1)
		go func() {
			defer peers.Done()
			defer room.leave(who)
			p := &session{c, bufio.NewReaderSize(c, maxRequest), who.rank, d}
			p.run(ctx)
		}()
	}
}

// session is one peer's connection.
type session struct {
	conn *net.UnixConn
	in   *bufio.Reader
	who  rank
	d    Daemon
}

// run answers requests, one after the other. When ctx is done it reads no more,
// and what is still to be replied has a second.
func (s *session) run(ctx context.Context) {
	defer s.conn.Close()
	stop := context.AfterFunc(ctx, func() {
		_ = s.conn.SetReadDeadline(past)
		_ = s.conn.SetWriteDeadline(time.Now().Add(writeAtEnd))
	})
	defer stop()
	for {
		line, err := s.read(ctx)
		if errors.Is(err, bufio.ErrBufferFull) {
			s.reply(ctx, Reply{Error: "read request: it is longer than a request can be"})
			return
		}
		if err != nil || !s.reply(ctx, s.answer(ctx, line)) {
			return
		}
	}
}

// read reads a request. The deadline is set before ctx is asked: whichever way
// the end of ctx falls, it ends the read.
func (s *session) read(ctx context.Context) ([]byte, error) {
	_ = s.conn.SetReadDeadline(time.Now().Add(readWithin))
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	line, err := s.in.ReadSlice('\n')
	return bytes.Clone(line), err
}

func (s *session) reply(ctx context.Context, r Reply) bool {
	_ = s.conn.SetWriteDeadline(time.Now().Add(readWithin))
	if ctx.Err() != nil {
		_ = s.conn.SetWriteDeadline(time.Now().Add(writeAtEnd))
	}
	return s.send(r)
}

func (s *session) send(r Reply) bool {
	b, err := json.Marshal(r)
	if err != nil {
		return false
	}
	_, err = s.conn.Write(append(b, '\n'))
	return err == nil
}

// answer carries one request out.
func (s *session) answer(ctx context.Context, line []byte) Reply {
	r, length, err := parse(line)
	if err != nil {
		return Reply{Error: err.Error()}
	}
	if may := verbs[r.Verb]; s.who < may {
		return Reply{Error: "only " + rankNames[may] + " may", Denied: true}
	}
	if r.Verb == "status" || r.Verb == "exposures" {
		if s.who >= group { // a look costs the kernel something, which is not for everyone to spend
			_ = s.d.Look(ctx) // without it the counters are a little old
		}
		st, _, err := s.d.Status(ctx)
		return s.status(st, err)
	}
	ctx, stop := s.whileThere(ctx)
	defer stop()
	if r.Verb == "waitsync" {
		return s.wait(ctx, length)
	}
	ctx, cancel := context.WithTimeout(ctx, OrderMost)
	defer cancel()
	switch r.Verb {
	case "diff":
		before, after, e := s.d.Diff(ctx, r.Preset)
		return replyTo(Reply{Diff: &Diff{before, after}}, e)
	case "apply", "confirm", "revert":
		err = s.d.OrderRules(ctx, r.Verb, r.Preset, length, r.Session)
	default:
		err = s.d.Order(ctx, r.Verb, length)
	}
	return replyTo(Reply{Unsure: err != nil && ctx.Err() != nil}, err)
}

func replyTo(r Reply, err error) Reply {
	if err != nil {
		return Reply{Error: err.Error(), Unsure: r.Unsure}
	}
	return r
}

// whileThere is a context that ends when the peer leaves: who waits for a sync
// and goes away keeps no place. Until stop is called nothing else may read.
func (s *session) whileThere(ctx context.Context) (there context.Context, stop func()) {
	there, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	_ = s.conn.SetReadDeadline(time.Time{})
	go func() {
		defer close(ended)
		if _, err := s.in.Peek(1); err != nil {
			cancel()
		}
	}()
	return there, func() {
		_ = s.conn.SetReadDeadline(past)
		<-ended
		cancel()
	}
}

var stopping = Reply{Error: "the daemon is stopping"}

// wait replies when the clock is synchronised, or when time is up.
func (s *session) wait(ctx context.Context, length time.Duration) Reply {
	if length == 0 {
		length = WaitMost
	}
	ended := ctx
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	for {
		st, changed, err := s.d.Status(ended) // however short the time: it is what is replied
		switch {
		case err != nil && ended.Err() != nil:
			return stopping
		case err != nil || st.Synchronized:
			return s.status(st, err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if ended.Err() != nil {
				return stopping
			}
			r := s.status(st, nil)
			r.Error = "not synchronised in time"
			if i := slices.IndexFunc(st.Weaknesses, func(w guard.Weakness) bool { return w.Code == "not-synchronized" }); i >= 0 {
				r.Error += ": " + st.Weaknesses[i].Text
			}
			return r
		}
	}
}

// status leaves out what not everyone may see.
func (s *session) status(st guard.Status, err error) Reply {
	if err != nil {
		return Reply{Error: err.Error()}
	}
	if s.who < group {
		st.Exposures, st.Others, st.OthersDropped = nil, nil, 0
	}
	return Reply{Status: &st}
}
