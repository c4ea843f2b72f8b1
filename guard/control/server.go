package control

import (
	"bufio"
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
	"time"

	"ntpveil/guard"
)

const (
	readWithin = 10 * time.Second
	orderMost  = time.Minute
	maxPeers   = 64 // connections at a time
)

// Daemon is what the socket speaks for.
type Daemon interface {
	// Look makes the next status as fresh as it can be.
	Look(ctx context.Context) error
	// Status is the status now, and a channel that is closed when it may have changed.
	Status(ctx context.Context) (guard.Status, <-chan struct{}, error)
	// Order carries out sync, step, disarm or arm, and waits for its end.
	Order(ctx context.Context, verb string, d time.Duration) error
}

// Server is a listening socket.
type Server struct {
	listener *net.UnixListener
	rankOf   func(*net.UnixConn) rank
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
	return &Server{listener: l, rankOf: peerRank}, nil
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
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
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
	room := make(chan struct{}, maxPeers)
	for {
		c, err := s.listener.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept: %w", err)
		case err != nil:
			continue // a peer that is gone already, or no descriptor left: the next may do
		}
		select {
		case room <- struct{}{}:
		default:
			_ = c.Close()
			continue
		}
		peers.Add(1)
		go func() {
			defer peers.Done()
			defer func() { <-room }()
			s.serve(ctx, c, d)
		}()
	}
}

// serve answers one peer's requests, one after the other.
func (s *Server) serve(ctx context.Context, c *net.UnixConn, d Daemon) {
	defer c.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	who := s.rankOf(c)
	in := bufio.NewReaderSize(c, maxRequest)
	for {
		_ = c.SetReadDeadline(time.Now().Add(readWithin))
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			reply(c, Reply{Error: "read request: it is longer than a request can be"})
			return
		}
		if err != nil {
			return
		}
		if !reply(c, answer(ctx, line, who, d)) {
			return
		}
	}
}

func reply(c *net.UnixConn, r Reply) bool {
	b, err := json.Marshal(r)
	if err != nil {
		return false
	}
	_ = c.SetWriteDeadline(time.Now().Add(readWithin))
	_, err = c.Write(append(b, '\n'))
	return err == nil
}

// answer carries one request out.
func answer(ctx context.Context, line []byte, who rank, d Daemon) Reply {
	r, length, err := parse(line)
	if err != nil {
		return Reply{Error: err.Error()}
	}
	if may := verbs[r.Verb]; who < may {
		return Reply{Error: "only " + rankNames[may] + " may", Denied: true}
	}
	switch r.Verb {
	case "status", "exposures":
		_ = d.Look(ctx) // without it the status is a little old
		s, _, err := d.Status(ctx)
		return statusReply(s, err, who)
	case "waitsync":
		return wait(ctx, length, who, d)
	}
	ctx, cancel := context.WithTimeout(ctx, orderMost)
	defer cancel()
	if err := d.Order(ctx, r.Verb, length); err != nil {
		return Reply{Error: err.Error()}
	}
	return Reply{}
}

// wait replies when the clock is synchronised, or when time is up.
func wait(ctx context.Context, length time.Duration, who rank, d Daemon) Reply {
	if length == 0 {
		length = maxWait
	}
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	for {
		s, changed, err := d.Status(ctx)
		if err != nil || s.Synchronized {
			return statusReply(s, err, who)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			r := statusReply(s, nil, who)
			r.Error = "not synchronised in time"
			if i := slices.IndexFunc(s.Weaknesses, func(w guard.Weakness) bool { return w.Code == "not-synchronized" }); i >= 0 {
				r.Error += ": " + s.Weaknesses[i].Text
			}
			return r
		}
	}
}

// statusReply leaves out what not everyone may see.
func statusReply(s guard.Status, err error, who rank) Reply {
	if err != nil {
		return Reply{Error: err.Error()}
	}
	if who < group {
		s.Exposures = nil
	}
	return Reply{Status: &s}
}
