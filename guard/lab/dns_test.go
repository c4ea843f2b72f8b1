package lab_test

import (
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"ntpveil/guard/lab"
)

func question(t testing.TB, name string, kind dnsmessage.Type) []byte {
	t.Helper()
	q := dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7}, Questions: []dnsmessage.Question{q}}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDNSAnswers(t *testing.T) {
	for _, c := range []struct {
		name    string
		kind    dnsmessage.Type
		code    dnsmessage.RCode
		answers int
	}{
		{"2.pool.example.", dnsmessage.TypeAAAA, dnsmessage.RCodeSuccess, 1},
		{"2.POOL.example.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, 1},
		{"2.pool.example.", dnsmessage.TypeMX, dnsmessage.RCodeSuccess, 0},
		{"3.pool.example.", dnsmessage.TypeAAAA, dnsmessage.RCodeNameError, 0},
	} {
		var m dnsmessage.Message
		if err := m.Unpack(lab.DNSReply(question(t, c.name, c.kind))); err != nil {
			t.Fatal(err)
		}
		if m.ID != 7 || !m.Response || m.RCode != c.code || len(m.Answers) != c.answers {
			t.Errorf("%s %s: %s", c.name, c.kind, m.GoString())
		}
	}
}

func FuzzDNS(f *testing.F) {
	f.Add(question(f, "2.pool.example.", dnsmessage.TypeAAAA))
	f.Fuzz(func(t *testing.T, b []byte) {
		reply := lab.DNSReply(b)
		if reply == nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(reply); err != nil || !m.Response {
			t.Errorf("reply %x: %v", reply, err)
		}
	})
}
