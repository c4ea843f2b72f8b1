package resolve

import (
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"ntpveil/guard/guardtest"
)

func TestResolverConforms(t *testing.T) {
	guardtest.ConformResolver(t, func(t *testing.T) guardtest.ResolverBench {
		begun := time.Now()
		now := func() time.Duration { return time.Since(begun) }
		dns := server(t, func(q dnsmessage.Question, m *dnsmessage.Message) bool {
			switch q.Name.String() {
			case "name.example.":
				return addrs(one4, one6)(q, m)
			case "silent.example.":
				return false
			}
			return code(dnsmessage.RCodeNameError)(q, m)
		})
		return guardtest.ResolverBench{Resolver: &Resolver{Now: now, DNS: dns}, Now: now,
			Name: "name.example.", Missing: "missing.example.", Silent: "silent.example."}
	})
}
