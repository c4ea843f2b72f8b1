package guard

import (
	"fmt"
	"io"
	"time"
)

// Secret is a key or a cookie. However a value that holds it is printed, it is not shown.
type Secret []byte

// Format prints the length alone.
func (s Secret) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, fmt.Sprintf("(secret of %d bytes)", len(s)))
}

// NTSKeys is what a key exchange agreed on (RFC 8915 section 5.1).
type NTSKeys struct {
	AEAD      uint16    `json:"aead"`
	ToServer  Secret    `json:"to_server"`  // C2S
	ToClient  Secret    `json:"to_client"`  // S2C
	NotBefore time.Time `json:"not_before"` // of the server's certificate
	NotAfter  time.Time `json:"not_after"`
}

// NTS is what protects one query.
type NTS struct {
	Keys   NTSKeys
	Cookie Secret
	Want   int // cookies to ask for, one at least
}
