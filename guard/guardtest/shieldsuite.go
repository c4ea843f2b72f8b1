package guardtest

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"ntpveil/rules"
)

// ShieldAdapter is what the daemon consumes of a shield.
type ShieldAdapter interface {
	Grow(now time.Duration, want rules.Shield) error
	Shrink(now time.Duration, want rules.Shield) error
	Block(ctx context.Context, now time.Duration, want rules.Shield) (changed bool, err error)
	Seen(now time.Duration) (rules.Shield, error)
	Watch(ctx context.Context, lost func(culprit string)) error
	Close() error
}

// ShieldBench is a shield on a bench: a host of its own with devices eth0 and eth1.
type ShieldBench struct {
	Shield    ShieldAdapter
	Flush     func()                        // somebody else removes the table
	SetDevice func(name string, there bool) // a device comes or goes
	Reopen    func() ShieldAdapter          // as a daemon does after a crash
}

// ShieldSuite is what every shield does, the model and the kernel alike. Deadlines
// that are seen may be up to a second later than those wished, never earlier.
func ShieldSuite(t *testing.T, open func(t *testing.T) ShieldBench) {
	for name, test := range map[string]func(t *testing.T, b ShieldBench){
		"nothing at first": suiteEmpty, "grow": suiteGrow, "grow adds only": suiteGrowAdds, "deadlines": suiteDeadlines,
		"passed deadlines": suitePassed, "shrink": suiteShrink, "modes": suiteModes, "off": suiteOff,
		"devices": suiteDevices, "trusted": suiteTrusted, "flush": suiteFlush, "watch ends": suiteWatchEnds, "reopen": suiteReopen,
		"lists": suiteLists,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

const suiteNow = 1000 * time.Hour // any reading: only what is left counts

func suiteWish() rules.Shield {
	server6, server4 := netip.MustParseAddrPort("[2001:db8:5::1]:123"), netip.MustParseAddrPort("192.0.2.1:123")
	a, b := netip.MustParseAddr("2001:db8:1::a"), netip.MustParseAddr("2001:db8:1::b")
	return rules.Shield{
		Mode: rules.Enforce, Preset: "workstation", LogGroup: 5, Devices: []string{"eth0"},
		Allow:   []rules.Service{{Proto: "tcp", Port: 22}},
		Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Exposed: []rules.Exposed{{Addr: a, Until: suiteNow + 26*time.Hour}, {Addr: b, Until: suiteNow + 25*time.Hour}},
		Solicited: []rules.Solicited{
			{Server: server4, Our: netip.MustParseAddrPort("198.51.100.2:40000"), Until: suiteNow + time.Minute},
			{Server: server6, Our: netip.AddrPortFrom(a, 40001), Until: suiteNow + time.Minute},
			{Server: server6, Our: netip.AddrPortFrom(b, 40001), TCP: true, Until: suiteNow + time.Minute},
			{Server: server6, Our: netip.AddrPortFrom(b, 40001), Until: suiteNow + 2*time.Minute},
		},
		Hoods: []rules.Hood{
			{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Server: server4.Addr(), Until: suiteNow + 15*time.Minute},
			{Prefix: netip.MustParsePrefix("2001:db8:5::/48"), Server: server6.Addr(), Until: suiteNow + 15*time.Minute},
			{Prefix: netip.MustParsePrefix("2001:db8:6:100::/56"), Server: netip.MustParseAddr("2001:db8:6:100::1"), Until: suiteNow + 15*time.Minute},
		},
	}
}

// suiteSees compares what is seen with what should be.
func suiteSees(t *testing.T, s ShieldAdapter, want rules.Shield) {
	t.Helper()
	got, err := s.Seen(suiteNow)
	if err != nil {
		t.Fatal(err)
	}
	near := func(got *time.Duration, want time.Duration) {
		if d := *got - want; d >= 0 && d <= time.Second {
			*got = want
		}
	}
	want.Exposed, want.Solicited, want.Hoods = slices.Clone(want.Exposed), slices.Clone(want.Solicited), slices.Clone(want.Hoods)
	want.Sort()
	for i := range min(len(got.Exposed), len(want.Exposed)) {
		near(&got.Exposed[i].Until, want.Exposed[i].Until)
	}
	for i := range min(len(got.Solicited), len(want.Solicited)) {
		near(&got.Solicited[i].Until, want.Solicited[i].Until)
	}
	for i := range min(len(got.Hoods), len(want.Hoods)) {
		near(&got.Hoods[i].Until, want.Hoods[i].Until)
	}
	for _, s := range []*rules.Shield{&got, &want} {
		tidy(s)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("seen\n%+v\nwant\n%+v", got, want)
	}
}

// tidy makes empty lists nil.
func tidy(s *rules.Shield) {
	v := reflect.ValueOf(s).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Slice && f.Len() == 0 {
			f.SetZero()
		}
	}
}

func suiteDo(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func suiteEmpty(t *testing.T, b ShieldBench) {
	suiteSees(t, b.Shield, rules.Shield{})
	suiteDo(t, b.Shield.Shrink(suiteNow, suiteWish()))
	suiteSees(t, b.Shield, rules.Shield{})
}

func suiteGrow(t *testing.T, b ShieldBench) {
	for range 2 { // the second changes nothing
		suiteDo(t, b.Shield.Grow(suiteNow, suiteWish()))
		suiteSees(t, b.Shield, suiteWish())
	}
}

func suiteGrowAdds(t *testing.T, b ShieldBench) {
	suiteDo(t, b.Shield.Grow(suiteNow, suiteWish()))
	other := rules.Shield{Mode: rules.Enforce, Preset: "workstation", LogGroup: 6, Devices: []string{"eth1"},
		Exposed: []rules.Exposed{{Addr: netip.MustParseAddr("2001:db8:1::c"), Until: suiteNow + time.Hour}}}
	suiteDo(t, b.Shield.Grow(suiteNow, other))
	want := suiteWish()
	want.LogGroup, want.Devices, want.Allow = 6, []string{"eth0", "eth1"}, nil
	want.Exposed = append(want.Exposed, other.Exposed...)
	suiteSees(t, b.Shield, want)
}

func suiteDeadlines(t *testing.T, b ShieldBench) {
	suiteDo(t, b.Shield.Grow(suiteNow, suiteWish()))
	later, want := suiteWish(), suiteWish()
	for i := range later.Hoods {
		later.Hoods[i].Until += time.Hour
	}
	later.Exposed[0].Until += time.Hour
	later.Exposed[1].Until -= time.Hour // never shortened
	later.Solicited[0].Until += time.Minute
	want.Hoods, want.Solicited = later.Hoods, later.Solicited
	want.Exposed[0] = later.Exposed[0]
	suiteDo(t, b.Shield.Grow(suiteNow, later))
	suiteDo(t, b.Shield.Shrink(suiteNow, later))
	suiteSees(t, b.Shield, want)
}

func suitePassed(t *testing.T, b ShieldBench) {
	w := suiteWish()
	w.Exposed[0].Until, w.Solicited[0].Until, w.Hoods[0].Until = suiteNow, suiteNow-time.Second, 0
	suiteDo(t, b.Shield.Grow(suiteNow, w))
	w.Exposed, w.Solicited, w.Hoods = w.Exposed[1:], w.Solicited[1:], w.Hoods[1:]
	suiteSees(t, b.Shield, w)
}

func suiteShrink(t *testing.T, b ShieldBench) {
	w := suiteWish()
	w.Devices = []string{"eth0", "eth1"}
	suiteDo(t, b.Shield.Grow(suiteNow, w))
	less := suiteWish()
	less.Exposed, less.Solicited, less.Hoods, less.Trusted = nil, less.Solicited[1:], less.Hoods[:1], nil
	suiteDo(t, b.Shield.Shrink(suiteNow, less))
	less.Exposed = suiteWish().Exposed // these run out by themselves
	suiteSees(t, b.Shield, less)
}

func suiteModes(t *testing.T, b ShieldBench) {
	for _, m := range []rules.Mode{rules.Observe, rules.Enforce, rules.Disarmed, rules.Enforce} {
		w := suiteWish()
		w.Mode = m
		suiteDo(t, b.Shield.Grow(suiteNow, w))
		suiteDo(t, b.Shield.Shrink(suiteNow, w))
		suiteSees(t, b.Shield, w)
	}
}

func suiteOff(t *testing.T, b ShieldBench) {
	suiteDo(t, b.Shield.Grow(suiteNow, suiteWish()))
	suiteDo(t, b.Shield.Grow(suiteNow, rules.Shield{})) // takes nothing away
	suiteSees(t, b.Shield, suiteWish())
	for range 2 {
		suiteDo(t, b.Shield.Shrink(suiteNow, rules.Shield{}))
		suiteSees(t, b.Shield, rules.Shield{})
	}
}

func suiteDevices(t *testing.T, b ShieldBench) {
	w := suiteWish()
	w.Devices = []string{"eth0", "wlan0"}
	if err := b.Shield.Grow(suiteNow, w); err == nil || !strings.Contains(err.Error(), "wlan0") {
		t.Fatalf("error %v, want one that names wlan0", err)
	}
	b.SetDevice("wlan0", true)
	suiteDo(t, b.Shield.Grow(suiteNow, w))
	suiteSees(t, b.Shield, w)
	b.SetDevice("wlan0", false)
	w.Devices = []string{"eth0"}
	suiteDo(t, b.Shield.Grow(suiteNow, w))
	suiteDo(t, b.Shield.Shrink(suiteNow, w))
	suiteSees(t, b.Shield, w)
}

func suiteTrusted(t *testing.T, b ShieldBench) {
	w := suiteWish()
	for _, list := range [][]string{{"10.1.0.0/16", "10.0.0.0/8", "2001:db8:f::/48"}, {"10.1.0.0/16", "192.0.2.7/32"}, {"0.0.0.0/0", "::/0"}, {}} {
		w.Trusted = nil
		for _, p := range list {
			w.Trusted = append(w.Trusted, netip.MustParsePrefix(p))
		}
		suiteDo(t, b.Shield.Grow(suiteNow, w))
		suiteDo(t, b.Shield.Shrink(suiteNow, w))
		want := w
		want.Trusted = rules.Widest(w.Trusted)
		suiteSees(t, b.Shield, want)
	}
}

func suiteFlush(t *testing.T, b ShieldBench) {
	ctx, cancel := context.WithCancel(context.Background())
	told, done := make(chan string, 10), make(chan error, 1)
	go func() { done <- b.Shield.Watch(ctx, func(culprit string) { told <- culprit }) }()
	culprit := ""
	for culprit == "" { // the first may come before it watches
		suiteDo(t, b.Shield.Grow(suiteNow, suiteWish()))
		b.Flush()
		select {
		case culprit = <-told:
		case <-time.After(10 * time.Millisecond):
		}
	}
	suiteSees(t, b.Shield, rules.Shield{})
	suiteDo(t, b.Shield.Grow(suiteNow, suiteWish()))
	suiteSees(t, b.Shield, suiteWish())
	cancel()
	suiteDo(t, <-done)
}

func suiteWatchEnds(t *testing.T, b ShieldBench) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := b.Shield.Watch(ctx, func(string) {}); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func suiteReopen(t *testing.T, b ShieldBench) {
	suiteDo(t, b.Shield.Grow(suiteNow, suiteWish()))
	again := b.Reopen()
	got, err := again.Seen(suiteNow)
	suiteDo(t, err)
	if got.Mode == rules.Off || len(got.Exposed) != 2 || len(got.Hoods) != 3 {
		t.Errorf("found %+v", got)
	}
	suiteDo(t, again.Grow(suiteNow, suiteWish()))
	suiteSees(t, again, suiteWish())
}
