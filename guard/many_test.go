package guard

import (
	"fmt"
	"testing"
	"time"
)

// TestManyConfiguredServers: more than are remembered without a place, and more than
// the servo follows. Each has a place, and the clock goes by those for whom there is
// an address.
func TestManyConfiguredServers(t *testing.T) {
	w := newIdeal(t, func(c *Config) {
		c.Servers, c.MaxAddrs = nil, 64
		for i := range maxServers + 8 {
			c.Servers = append(c.Servers, Server{fmt.Sprintf("2001:db8:%x::1", 0x100+i), 123})
		}
	})
	w.start(time.Hour)
	w.wantSynced("of many servers", true)
	if n := len(w.g.chosenOnes()); n != maxServers+8 || len(w.asked) <= maxServers {
		t.Errorf("%d have a place, %d were asked", n, len(w.asked))
	}
}
