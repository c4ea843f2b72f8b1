package selection

// KissAction is what a kiss-o'-death asks for.
type KissAction uint8

const (
	KissNone KissAction = iota // a code that asks for nothing
	KissDeny                   // stop asking
	KissRate                   // ask less often
)

// Kiss is what a kiss code asks for (RFC 5905 section 7.4). Codes that are not
// known ask for nothing: a reference identifier may spell anything.
func Kiss(code string) KissAction {
	switch code {
	case "DENY", "RSTR":
		return KissDeny
	case "RATE":
		return KissRate
	}
	return KissNone
}
