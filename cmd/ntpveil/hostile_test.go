package main

import (
	"net/netip"
	"testing"
	"time"

	"ntpveil/guard"
	"ntpveil/guard/lab"
)

// One hostile server in four changes nothing but its own line.
func TestOneHostileServer(t *testing.T) {
	cases := map[string]lab.Answer{
		"garbage":      lab.Garbage(1),
		"wrong origin": lab.WrongOrigin(),
		"absurd 1":     lab.Absurd(1),
		"absurd 2":     lab.Absurd(2),
		"absurd 3":     lab.Absurd(3),
		"flood":        lab.Flood(2000, lab.Honest()),
		"silent":       lab.Silent(),
		"DENY":         lab.Kiss("DENY"),
		"RSTR":         lab.Kiss("RSTR"),
		"RATE":         lab.Kiss("RATE"),
		"an hour off":  lab.Offset(time.Hour),
		"later":        lab.Late(300*time.Millisecond, lab.Offset(-time.Second)),
	}
	for name, answer := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := install(t, lab.Options{Servers: 3}, "[time]\npools = [\""+lab.Pool+"\"]\nuse = 4\nmin_agree = 3\n")
			h.hurry()
			hostile := h.lab.Harvester // in the pool, as the others are
			hostile.Answer(answer)
			names := []netip.Addr{hostile.Addr6} // so that nobody can take its place
			for _, server := range h.lab.Servers {
				names = append(names, server.Addr6)
			}
			h.lab.DNS.Set(lab.Pool, names...)
			s := h.start()
			status := h.synced(12 * time.Second)
			if off := status.Clock.Offset; off > 0.05 || off < -0.05 {
				t.Errorf("it moved the offset: %f s", off)
			}
			var lines []guard.ServerStatus
			h.json(&lines, "servers", "--json")
			if len(lines) != 4 {
				t.Errorf("%d servers: %+v", len(lines), lines)
			}
			for _, line := range lines {
				its := line.Address == hostile.Addr6.String()
				good := line.State == "selected" || line.State == "candidate"
				switch {
				case its && name != "flood" && (good || line.Reason == ""):
					t.Errorf("the hostile server is %s (%s)", line.State, line.Reason)
				case (!its || name == "flood") && !(good && line.Reach == 1):
					t.Errorf("%s is %s (%s), reach %o", line.Address, line.State, line.Reason, line.Reach)
				case its:
					t.Logf("%s: %s", line.State, line.Reason)
				}
			}
			s.stop()
		})
	}
}
