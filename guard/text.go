package guard

import (
	"fmt"
	"strings"
	"time"
)

// String is the plan as text, one line a part: what scenarios pin and bug
// reports carry. Times are monotonic readings.
func (p Plan) String() string {
	var b strings.Builder
	p.Kernel.print(&b)
	if p.Fix.Key != 0 {
		fmt.Fprintf(&b, "fix %d step=%s slew=%s error=%s sync=%t leap=%d\n", p.Fix.Key, p.Fix.Step, p.Fix.Slew, p.Fix.Error, p.Fix.Sync, p.Fix.Leap)
	}
	if p.Save.Key != 0 {
		fmt.Fprintf(&b, "save %d synced=%t\n", p.Save.Key, p.Save.Synced)
	}
	for _, l := range p.Lookups {
		fmt.Fprintf(&b, "lookup %d %s by=%s\n", l.Key, l.Name, l.By)
	}
	for _, k := range p.Keyings {
		fmt.Fprintf(&b, "keys %d %s -> %s of %s by=%s\n", k.Key, k.From, k.To, k.Name, k.By)
	}
	for _, a := range p.Asks {
		fmt.Fprintf(&b, "ask %d %s -> %s by=%s%s\n", a.Key, a.From, a.To, a.By, map[bool]string{true: " nts"}[a.NTS != nil])
	}
	for _, r := range p.Records {
		fmt.Fprintf(&b, "record %d %s %s\n", r.Key, r.Kind, r.Text)
	}
	for _, r := range p.Replies {
		fmt.Fprintf(&b, "reply %d %q\n", r.Key, r.Err)
	}
	fmt.Fprintf(&b, "wake %s done=%t\n", p.Wake, p.Done)
	return b.String()
}

func (k Kernel) print(b *strings.Builder) {
	if !k.Act {
		b.WriteString("kernel: only look\n")
		return
	}
	s := k.Shield
	fmt.Fprintf(b, "shield %s devices=%v allow=%v trusted=%v\n", s.Mode, s.Devices, s.Allow, s.Trusted)
	for _, x := range s.Exposed {
		fmt.Fprintf(b, "exposed %s until=%s\n", x.Addr, x.Until)
	}
	for _, x := range s.Solicited {
		fmt.Fprintf(b, "solicited %s -> %s until=%s%s\n", x.Server, x.Our, x.Until, map[bool]string{true: " tcp"}[x.TCP])
	}
	for _, x := range s.Hoods {
		fmt.Fprintf(b, "hood %s of %s until=%s\n", x.Prefix, x.Server, x.Until)
	}
	for _, a := range k.Addrs {
		fmt.Fprintf(b, "address %s link=%d until=%s meet=%s\n", a.Addr, a.Link, a.Until, a.Meet)
	}
}

// String is the instant as text: monotonic since boot, and the wall clock.
func (i Instant) String() string {
	return fmt.Sprintf("%s %s", i.Mono.Round(time.Millisecond), i.Wall.UTC().Format(time.RFC3339))
}
