package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"syscall"
	"time"

	"ntpveil/guard"
)

// connectWithin is how long a place is waited for where many connect.
const connectWithin = 10 * time.Second

// Call sends one request to the daemon at path and returns the status that came
// with the reply, if any. Errors wrap ErrNotRunning, ErrNotPermitted and Refused.
func Call(ctx context.Context, path string, r Request) (*guard.Status, error) {
	rep, err := Ask(ctx, path, r)
	return rep.Status, err
}

// Ask sends one request to the daemon at path, as Call does, and returns the reply.
func Ask(ctx context.Context, path string, r Request) (rep Reply, err error) {
	c, err := connect(ctx, path, connectWithin)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return rep, fmt.Errorf("%w (nobody listens on %s)", ErrNotRunning, path)
	case errors.Is(err, fs.ErrPermission):
		return rep, fmt.Errorf("%w: connect to %s", ErrNotPermitted, path)
	case err != nil:
		return rep, fmt.Errorf("connect to %s: %w", path, err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	sent := json.NewEncoder(c).Encode(r) // a daemon that has no place replies without having read
	line, err := bufio.NewReader(io.LimitReader(c, maxReply)).ReadBytes('\n')
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return rep, ctx.Err()
	case sent != nil:
		return rep, fmt.Errorf("send request: %w", sent)
	default:
		return rep, fmt.Errorf("read reply: %w", err)
	}
	return read(line)
}

// connect waits for a place in the row of those who wait to be accepted: it has 4096
// at most, and any user can fill it for a moment, again and again.
func connect(ctx context.Context, path string, within time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		var d net.Dialer
		c, err := d.DialContext(ctx, "unix", path)
		if !errors.Is(err, syscall.EAGAIN) {
			return c, err
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// read reads a reply.
func read(line []byte) (rep Reply, err error) {
	if err := json.Unmarshal(line, &rep); err != nil {
		return rep, fmt.Errorf("read reply: %w", err)
	}
	switch {
	case rep.Denied:
		return rep, fmt.Errorf("%w: %s", ErrNotPermitted, rep.Error)
	case rep.Unsure:
		return rep, errors.New(rep.Error)
	case rep.Error != "":
		return rep, Refused(rep.Error)
	}
	return rep, nil
}
