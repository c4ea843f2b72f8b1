package nts

import (
	"bytes"
	"encoding/hex"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The vectors of RFC 5297, appendix A.
var sivVectors = []struct {
	name, key, plain, sealed string
	ad                       []string
}{
	{
		"deterministic", "fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff",
		"112233445566778899aabbccddee",
		"85632d07c6e8f37f950acd320a2ecc9340c02b9690c4dc04daef7f6afe5c",
		[]string{"101112131415161718191a1b1c1d1e1f2021222324252627"},
	},
	{
		"with a nonce", "7f7e7d7c7b7a79787776757473727170404142434445464748494a4b4c4d4e4f",
		"7468697320697320736f6d6520706c61696e7465787420746f20656e6372797074207573696e67205349562d414553",
		"7bdb6e3b432667eb06f4d14bff2fbd0fcb900f2fddbe404326601965c889bf17dba77ceb094fa663b7a3f748ba8af829ea64ad544a272e9c485b62a3fd5c0d",
		[]string{
			"00112233445566778899aabbccddeeffdeaddadadeaddadaffeeddccbbaa99887766554433221100",
			"102030405060708090a0", "09f911029d74e35bd84156c5635688c0",
		},
	},
}

func TestSIVIsThatOfTheRFC(t *testing.T) {
	for _, v := range sivVectors {
		s, err := newSIV(unhex(t, v.key))
		if err != nil {
			t.Fatal(err)
		}
		var ad [][]byte
		for _, a := range v.ad {
			ad = append(ad, unhex(t, a))
		}
		plain, sealed := unhex(t, v.plain), unhex(t, v.sealed)
		if got := s.seal(plain, ad...); !bytes.Equal(got, sealed) {
			t.Errorf("%s: sealed %x, want %x", v.name, got, sealed)
		}
		if got, err := s.open(sealed, ad...); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: opened %x (%v)", v.name, got, err)
		}
	}
}

// TestCMACIsThatOfTheRFC: the vectors of RFC 4493, whose lengths are below, at,
// and above a block.
func TestCMACIsThatOfTheRFC(t *testing.T) {
	key := unhex(t, "2b7e151628aed2a6abf7158809cf4f3c")
	s, err := newSIV(append(key, key...))
	if err != nil {
		t.Fatal(err)
	}
	m := unhex(t, "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710")
	for n, want := range map[int]string{
		0: "bb1d6929e95937287fa37d129b756746", 16: "070a16b46b4d4144f79bdd9dd04a287c",
		40: "dfa66747de9ae63030ca32611497c827", 64: "51f0bebf7e3b9d92fc49741779363cfe",
	} {
		if got := s.cmac(m[:n]); !bytes.Equal(got[:], unhex(t, want)) {
			t.Errorf("of %d bytes: %x, want %s", n, got, want)
		}
	}
}

// TestEveryBitCounts: one flipped bit of what was sealed, or of what goes along
// with it, is noticed.
func TestEveryBitCounts(t *testing.T) {
	s, err := newSIV(unhex(t, sivVectors[0].key))
	if err != nil {
		t.Fatal(err)
	}
	header, nonce := []byte("header"), []byte("nonce of sixteen")
	sealed := s.seal([]byte("a cookie or two"), header, nonce)
	for _, part := range [][]byte{sealed, header, nonce} {
		for i := range 8 * len(part) {
			part[i/8] ^= 1 << (i % 8)
			if _, err := s.open(sealed, header, nonce); err != errForged {
				t.Fatalf("bit %d of %q: %v", i, part, err)
			}
			part[i/8] ^= 1 << (i % 8)
		}
	}
	if _, err := s.open(sealed, header); err != errForged {
		t.Errorf("without the nonce: %v", err)
	}
	if _, err := s.open(sealed[:blockSize-1], header, nonce); err != errForged {
		t.Errorf("cut short: %v", err)
	}
	if _, err := newSIV(make([]byte, 16)); err == nil {
		t.Error("a short key is taken")
	}
}
