package clockbench

import (
	"fmt"
	"math"
	"testing"
	"time"
)

const said = "7F00000A,2001:db8:101::123,3,1795000000.1,-0.030020368,0.0,0.0,20.0,0.0,1.0,0.000980,0.002000,64.0,%s\n" +
	"^,*,2001:db8:101::123,2,6,17,3,0.0,0.0,0.0\n^,+,2001:db8:102::123,2,6,17,3,0.0,0.0,0.0\n" +
	"^,-,2001:db8:103::123,2,6,17,3,0.0,0.0,0.0\n^,x,2001:db8:104::123,2,6,17,3,0.0,0.0,0.0\n"

func TestChronycsAnswer(t *testing.T) {
	r, err := parseChronyc(Reading{}, []byte(fmt.Sprintf(said, "Normal")))
	if err != nil || r.Offset != -0.030020368 || math.Abs(r.Distance-0.00249) > 1e-12 || r.Agreeing != 3 {
		t.Errorf("%+v, %v", r, err)
	}
	if !r.usable(0.002) || !r.usable(-0.002) || r.usable(0.003) || r.usable(-0.003) {
		t.Errorf("usable is what is not within %g s", r.Distance)
	}
	r, err = parseChronyc(Reading{Agreeing: -1}, []byte(fmt.Sprintf(said, "Not synchronised")))
	if err != nil || r.Agreeing >= 0 || r.usable(0) {
		t.Errorf("not synchronised: %+v, %v", r, err)
	}
}

func FuzzChronyc(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(said, "Normal")))
	f.Add([]byte("506 Cannot talk to daemon\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parseChronyc(Reading{Agreeing: -1}, b); err != nil && r.usable(0) {
			t.Errorf("usable: %+v, though %v", r, err)
		}
	})
}

// The PLL takes 30 ms and 20 ppm away and follows its one server.
func TestPLL(t *testing.T) {
	var p pll
	now := time.Unix(1e9, 0)
	truth := func() float64 { return 0.03 + 20e-6*now.Sub(time.Unix(1e9, 0)).Seconds() }
	for range 30 {
		p.sample(now, truth())
		now = now.Add(rawPoll)
	}
	if off := p.ahead(now) - truth(); math.Abs(off) > 50e-6 {
		t.Errorf("off by %g s", off)
	}
	half := p.ahead(now.Add(-rawPoll / 2))
	if off := half - (truth() - 20e-6*32); math.Abs(off) > 50e-6 {
		t.Errorf("between two samples it is off by %g s", off)
	}
}
