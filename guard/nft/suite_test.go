package nft

import (
	"testing"

	"ntpveil/guard/guardtest"
)

func TestKernelShield(t *testing.T) {
	guardtest.ShieldSuite(t, func(t *testing.T) guardtest.ShieldBench {
		k := newKernel(t)
		k.device(t, "eth0")
		k.device(t, "eth1")
		s := k.open(t)
		return guardtest.ShieldBench{
			Shield: s,
			Flush:  func() { k.nft(t, "", "flush", "ruleset") },
			SetDevice: func(name string, there bool) {
				if there {
					k.device(t, name)
				} else {
					k.removeDevice(t, name)
				}
			},
			Reopen: func() guardtest.ShieldAdapter {
				must(t, s.Close())
				return k.open(t)
			},
		}
	})
}
