package query

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ntpveil/guard/selection"
)

var (
	somewhere = netip.MustParseAddrPort("[2001:db8:101::1]:123")
	noon      = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	nonce     = [8]byte{1, 2, 3, 4, 5, 6, 7, 8}
)

// paper is an exchange without a network: one datagram comes, with a stamp of
// the kernel's, and the host's clocks show what the test says.
type paper struct {
	net.Conn
	c          *conn
	sent, read reading
	left       time.Time // by the kernel; zero: no stamp came
	kernel     time.Time
	floor      time.Time
	datagram   []byte
	panics     bool
}

// exchange leaves at noon and is read on time.
func exchange(datagram []byte, took time.Duration) *paper {
	return &paper{sent: reading{time.Hour, 0, noon}, read: reading{time.Hour + took, 0, noon.Add(took)}, kernel: noon.Add(took), datagram: datagram}
}

func (p *paper) Close() error                { return nil }
func (p *paper) SetDeadline(time.Time) error { return nil }

func (p *paper) Write(b []byte) (int, error) {
	p.c.library = [8]byte(b[atTransmit:])
	p.c.clock = func() reading { return p.read }
	return len(b), nil
}

func (p *paper) Read(b []byte) (int, error) {
	if p.panics {
		panic("index out of range")
	}
	if err := p.c.take(p.datagram, p.kernel); err != nil {
		return 0, err
	}
	p.c.leave(p.left)
	return p.c.hand(b), nil
}

func (p *paper) measure() (selection.Sample, error) {
	p.c = &conn{nonce: nonce, clock: func() reading { return p.sent }}
	a := Asker{Floor: p.floor}
	return a.measure(p, p.c, somewhere)
}

func near(a, b time.Duration) bool { return (a - b).Abs() <= 2 } // ns: a timestamp's fraction is 0.23 ns

// TestBothClocksAtOnce: where a thread has to wait between them, they are read again.
func TestBothClocksAtOnce(t *testing.T) {
	now, calls := time.Duration(0), 0
	slow := func() time.Duration { // the first two readings take 5 ms, the third 3 us
		if calls++; calls <= 4 {
			now += 5 * time.Millisecond
		} else {
			now += 3 * time.Microsecond
		}
		return now
	}
	if r := read(slow); r.spread != 3*time.Microsecond || r.mono != now-r.spread {
		t.Errorf("%+v after %d looks, now %s", r, calls, now)
	}
	never := func() time.Duration { now += 5 * time.Millisecond; return now }
	if r := read(never); r.spread != 5*time.Millisecond {
		t.Errorf("%+v", r)
	}
}

func TestSample(t *testing.T) {
	const ahead, there, held, back = 7 * time.Second, 3 * time.Millisecond, 200 * time.Microsecond, 5 * time.Millisecond
	arrived := noon.Add(ahead + there)
	p := exchange(reply(nonce, arrived, arrived.Add(held)), there+held+back)
	p.read = reading{p.read.mono + 20*time.Millisecond, 0, p.read.wall.Add(20 * time.Millisecond)} // late, after the kernel's stamp
	s, err := p.measure()
	if err != nil {
		t.Fatal(err)
	}
	if !near(s.Offset, ahead+(there-back)/2) || !near(s.Delay, there+back) || s.At != time.Hour+there+held+back {
		t.Errorf("offset %s, delay %s, at %s", s.Offset, s.Delay, s.At)
	}
	elapsed := there + held + back + 20*time.Millisecond
	if s.Precision != time.Second>>23 || !near(s.Dispersion, s.Precision+ownPrecision+time.Duration(15e-6*float64(elapsed))) {
		t.Errorf("precision %s, dispersion %s", s.Precision, s.Dispersion)
	}
	if !near(s.RootDelay, time.Second/512) || !near(s.RootDisp, time.Second/1024) || s.Stratum != 2 || s.Leap != 0 || s.RefID != 0xc000024d || s.Server != somewhere {
		t.Errorf("%+v", s)
	}
}

func TestAnImplausibleStampIsNotUsed(t *testing.T) {
	for name, kernel := range map[string]time.Time{
		"none":                noon.Add(-56 * 365 * 24 * time.Hour),
		"before the query":    noon.Add(-time.Nanosecond),
		"after it was read":   noon.Add(time.Hour),
		"zero":                {},
		"of the other decade": noon.Add(-10 * 365 * 24 * time.Hour),
	} {
		p := exchange(reply(nonce, noon, noon), 10*time.Millisecond)
		p.kernel = kernel
		if s, err := p.measure(); err != nil || !near(s.Delay, 10*time.Millisecond) || s.At != p.read.mono {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
}

func TestNoSampleOverAStep(t *testing.T) {
	for _, step := range []time.Duration{time.Hour, -time.Hour, 2 * time.Millisecond, -2 * time.Millisecond} {
		p := exchange(reply(nonce, noon, noon), 10*time.Millisecond)
		p.read.wall = p.read.wall.Add(step)
		if s, err := p.measure(); !errors.Is(err, errStepped) {
			t.Errorf("a step by %s: %+v, %v", step, s, err)
		}
	}
}

// TestAWaitIsNoStep: the thread had to wait between the two clocks.
func TestAWaitIsNoStep(t *testing.T) {
	p := exchange(reply(nonce, noon, noon), 10*time.Millisecond)
	p.read.wall, p.read.spread = p.read.wall.Add(50*time.Millisecond), 50*time.Millisecond
	if s, err := p.measure(); err != nil || !near(s.Delay, 10*time.Millisecond) {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestEras(t *testing.T) {
	const year = 365 * 24 * time.Hour
	build := noon.Add(-year)
	for name, tt := range map[string]struct {
		host, server, floor time.Time
	}{
		"the same era":                    {noon, noon.Add(-time.Hour), build},
		"the server is past 2036":         {noon, noon.Add(20 * year), build},
		"the host is past 2036":           {noon.Add(20 * year), noon.Add(time.Hour), build},
		"both are past it":                {noon.Add(20 * year), noon.Add(20*year + time.Minute), build},
		"a dead clock, a build date":      {time.Unix(60, 0), noon.Add(20 * year), build},
		"a dead clock, before 2036":       {time.Unix(60, 0), noon, build},
		"a dead clock and no build date":  {time.Unix(60, 0), noon, time.Time{}},
		"a clock that ran mad":            {noon.Add(74 * year), noon, build},
		"a clock that ran mad, no date":   {noon.Add(74 * year), noon.Add(era), time.Time{}},
		"a server that lives in the past": {noon, noon.Add(-30 * year), build},
	} {
		p := exchange(reply(nonce, tt.server, tt.server), 0)
		p.sent.wall, p.read.wall, p.kernel, p.floor = tt.host, tt.host, tt.host, tt.floor
		if s, err := p.measure(); err != nil || !near(s.Offset, tt.server.Sub(tt.host)) {
			t.Errorf("%s: %s, %v, want %s", name, s.Offset, err, tt.server.Sub(tt.host))
		}
	}
}

func TestHostileAnswersYieldNoSample(t *testing.T) {
	put := func(at int, v uint32) func(b []byte) {
		return func(b []byte) { binary.BigEndian.PutUint32(b[at:], v) }
	}
	for name, tt := range map[string]struct {
		edit func(b []byte)
		want string
	}{
		"unsynchronised":             {func(b []byte) { b[0] |= 0xc0 }, "not synchronised"},
		"stratum 16":                 {func(b []byte) { b[1] = 16 }, "not synchronised"},
		"stratum 255":                {func(b []byte) { b[1] = 255 }, "not synchronised"},
		"a kiss in small letters":    {func(b []byte) { b[1] = 0; copy(b[atRefID:], "rate") }, "not synchronised"},
		"a kiss that is no text":     {func(b []byte) { b[1] = 0; copy(b[atRefID:], "\x1b[2J") }, "not synchronised"},
		"no transmit timestamp":      {func(b []byte) { clear(b[atTransmit:]) }, "a timestamp is missing"},
		"no receive timestamp":       {func(b []byte) { clear(b[atReceive:atTransmit]) }, "a timestamp is missing"},
		"sent before received":       {func(b []byte) { b[atReceive+3]++ }, "it left before the query arrived"},
		"held for a minute":          {func(b []byte) { b[atTransmit+3] += 60 }, "held for more than"},
		"held for 68 years":          {func(b []byte) { b[atTransmit] ^= 0x7f }, "check answer"},
		"held longer than all of it": {func(b []byte) { b[atTransmit+4] += 0x40 }, "longer than the whole exchange"},
		"set in the future":          {func(b []byte) { b[atReference+2]++ }, "last set in the future"},
		"a root delay of minutes":    {put(atRootDelay, 100<<16), "root distance of 50"},
		"the largest root delay":     {put(atRootDelay, 1<<32-1), "root distance of 32768"},
		"16 s of root dispersion":    {func(b []byte) { clear(b[atRootDelay:atRefID]); b[atRootDisp+1] = 16 }, "root distance of 16"},
		"the largest dispersion":     {put(atRootDisp, 1<<32-1), "root distance of 65536"},
		"a precision of two seconds": {func(b []byte) { b[atPrecision] = 1 }, "precision of 2^1 s"},
		"a precision of 2^127 s":     {func(b []byte) { b[atPrecision] = 127 }, "precision of 2^127 s"},
	} {
		b := reply(nonce, noon, noon)
		tt.edit(b)
		if s, err := exchange(b, 10*time.Millisecond).measure(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
}

func TestUnusualButHonest(t *testing.T) {
	for name, edit := range map[string]func(b []byte){
		"version 3":                     func(b []byte) { b[0] = 0x1c },
		"a leap second comes":           func(b []byte) { b[0] |= 0x40 },
		"stratum 15":                    func(b []byte) { b[1] = 15 },
		"any poll":                      func(b []byte) { b[2] = 0x80 },
		"a precision of a second":       func(b []byte) { b[atPrecision] = 0 },
		"an impossibly good precision":  func(b []byte) { b[atPrecision] = 0x80 },
		"never set, by its own account": func(b []byte) { clear(b[atReference:atOrigin]) },
	} {
		b := reply(nonce, noon, noon)
		edit(b)
		if _, err := exchange(append(b, make([]byte, 20)...), 10*time.Millisecond).measure(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAPanicOfTheLibraryIsAnError(t *testing.T) {
	p := exchange(nil, 0)
	p.panics = true
	if _, err := p.measure(); err == nil || !strings.Contains(err.Error(), "index out of range") {
		t.Error(err)
	}
}

// FuzzAnswer: whatever comes with the right origin, and whatever the clocks do,
// nothing panics and no field of a sample is out of bounds.
func FuzzAnswer(f *testing.F) {
	f.Add(reply(nonce, noon, noon), int64(time.Millisecond), int64(0), int64(0))
	f.Add(reply(nonce, noon.Add(time.Hour), noon.Add(time.Hour)), int64(time.Second), int64(time.Hour), int64(-5))
	f.Add([]byte{}, int64(-1), int64(-1), int64(1<<62))
	f.Fuzz(func(t *testing.T, b []byte, took, stamped, step int64) {
		if len(b) >= atOrigin+8 {
			copy(b[atOrigin:], nonce[:])
		}
		p := exchange(b, min(max(time.Duration(took), 0), time.Minute))
		p.kernel = noon.Add(time.Duration(stamped))
		p.read.wall = p.read.wall.Add(time.Duration(step))
		s, err := p.measure()
		if err != nil {
			return
		}
		elapsed := p.read.mono - p.sent.mono
		switch {
		case s.Delay < 0 || s.Delay > elapsed+noStep+2,
			s.Offset.Abs() > era/2+time.Second,
			s.At < p.sent.mono-noStep || s.At > p.read.mono,
			s.Precision < 1 || s.Precision > time.Second,
			s.Dispersion < s.Precision || s.Dispersion > time.Second+time.Millisecond,
			s.RootDelay < 0 || s.RootDisp < 0 || s.RootDelay/2+s.RootDisp >= maxClaimed,
			s.RootDistance() < 0 || s.RootDistance() > maxClaimed+2*time.Second+elapsed,
			s.Stratum < 1 || s.Stratum > 15 || s.Leap > 2 || s.Server != somewhere:
			t.Errorf("%+v", s)
		}
	})
}
