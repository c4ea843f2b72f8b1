package guard

import "ntpveil/guard/selection"

// Letters are the states of a server in one letter, and what they mean: those of
// chronyc where it has one for the same.
var Letters = []struct{ Letter, Text string }{
	{"*", "selected: part of the time that the clock goes by"},
	{"-", "agrees, but is far from where the others are close together: not combined"},
	{"W", "too few agree with it: nobody can say who is right"},
	{"d", "its answer cannot be used, by its root distance above all"},
	{"M", "no answer in the last sync, but in one of the last eight"},
	{"x", "falseticker: outside of what the majority agrees on"},
	{"?", "unreachable"},
	{"!", "denied: it asked not to be asked"},
	{"n", "new: not asked yet"},
	{"L", "leaky: it gave an address away"},
}

// letter is that of a server in a state, of which candidates are in more than one.
func (g *Guard) letter(s *server, state string) string {
	switch state {
	case "candidate":
	case "selected":
		return "*"
	case "falseticker":
		return "x"
	case "denied":
		return "!"
	case "new":
		return "n"
	case "leaky":
		return "L"
	default:
		return "?"
	}
	if !s.judged {
		return "M"
	}
	switch s.verdict.State {
	case selection.Apart:
		return "-"
	case selection.Undecided:
		return "W"
	}
	return "d"
}
