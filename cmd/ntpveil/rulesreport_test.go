package main

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"ntpveil/guard"
)

func TestDroppedBy(t *testing.T) {
	until := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	s := &guard.Status{
		Shield: guard.ShieldStatus{State: "observing", Preset: "observe"},
		Neighbourhoods: []guard.HoodStatus{{Prefix: "2001:db8:1::/48", Server: "2001:db8:1::123", Dropped: 2}, {Prefix: "2001:db8:2::/48", Server: "2001:db8:2::123", Dropped: 7},
			{Prefix: "192.0.2.0/24", Server: "192.0.2.1"}},
		Exposures: []guard.ExposureStatus{
			{Address: "2001:db8:f::a", Kind: "throw-away", Server: "2001:db8:1::123", GuardedUntil: &until, Probes: 100},
			{Address: "2001:db8:f::b", Kind: "throw-away", Server: "2001:db8:1::123", GuardedUntil: &until},
			{Address: "2001:db8:f::c", Kind: "throw-away", GuardedUntil: &until, Probes: 1},
			{Address: "192.0.2.99", Kind: "stable", Server: "192.0.2.1"},
		},
		Others: []guard.OtherStatus{{Prefix: "198.51.100.0/24", Dropped: 6}}, OthersDropped: 9,
	}
	want := dropped{Preset: "observe", State: "observing", Packets: 119, Others: s.Others, FromOthers: 9, Servers: []droppedServer{
		{Server: "2001:db8:1::123", Prefixes: []string{"2001:db8:1::/48"}, From: 2, Addresses: 2, Probed: 1, To: 100},
		{Server: "2001:db8:2::123", Prefixes: []string{"2001:db8:2::/48"}, From: 7},
		{Prefixes: []string{}, Addresses: 1, Probed: 1, To: 1},
		{Server: "192.0.2.1", Prefixes: []string{"192.0.2.0/24"}},
	}}
	got := droppedBy(s)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	var out strings.Builder
	if err := printDropped(&out, got); err != nil || !strings.HasPrefix(out.String(), "Preset observe, shield observing: 119 packets would have been dropped if the shield were in force.\n") ||
		!strings.Contains(out.String(), "unknown          -                0        1                1       1\n") ||
		!strings.HasSuffix(out.String(), "\nFrom others      9\n198.51.100.0/24  6\nthe rest         3\n") {
		t.Errorf("%v\n%s", err, &out)
	}
	got.Enforced = true
	out.Reset()
	if err := printDropped(&out, got); err != nil || !strings.Contains(out.String(), "119 packets were dropped.") {
		t.Errorf("%v\n%s", err, &out)
	}
}
