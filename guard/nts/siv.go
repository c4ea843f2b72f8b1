package nts

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"errors"
)

const (
	sivKey    = 32 // of AEAD_AES_SIV_CMAC_256: half for the authentication, half for the encryption
	blockSize = aes.BlockSize
)

var errForged = errors.New("the authenticator does not fit")

// siv is AES-SIV (RFC 5297), with two keys of 128 bits.
type siv struct {
	mac      cipher.Block
	ctr      cipher.Block
	k1, k2   [blockSize]byte // subkeys of CMAC
	zeroHash [blockSize]byte // CMAC of a block of zeros, where every S2V begins
}

func newSIV(key []byte) (*siv, error) {
	if len(key) != sivKey {
		return nil, errors.New("a key is not of 32 bytes")
	}
	s := &siv{}
	s.mac, _ = aes.NewCipher(key[:sivKey/2]) // the length is right
	s.ctr, _ = aes.NewCipher(key[sivKey/2:])
	s.mac.Encrypt(s.k1[:], s.k1[:])
	s.k1 = double(s.k1)
	s.k2 = double(s.k1)
	s.zeroHash = s.cmac(make([]byte, blockSize))
	return s, nil
}

// double multiplies by x in GF(2^128) (RFC 5297 section 2.3), in constant time.
func double(b [blockSize]byte) (out [blockSize]byte) {
	carry := byte(0)
	for i := blockSize - 1; i >= 0; i-- {
		out[i], carry = b[i]<<1|carry, b[i]>>7
	}
	out[blockSize-1] ^= 0x87 & -carry
	return out
}

// cmac is the CMAC of a message (RFC 4493).
func (s *siv) cmac(m []byte) (x [blockSize]byte) {
	for len(m) > blockSize {
		subtle.XORBytes(x[:], x[:], m[:blockSize])
		s.mac.Encrypt(x[:], x[:])
		m = m[blockSize:]
	}
	last := s.k1
	if len(m) < blockSize {
		last = s.k2
		last[len(m)] ^= 0x80
	}
	subtle.XORBytes(last[:], last[:], m)
	subtle.XORBytes(x[:], x[:], last[:])
	s.mac.Encrypt(x[:], x[:])
	return x
}

// s2v makes the synthetic vector of associated data and a plaintext (RFC 5297
// section 2.4).
func (s *siv) s2v(plain []byte, ad ...[]byte) [blockSize]byte {
	d := s.zeroHash
	for _, a := range ad {
		d = double(d)
		m := s.cmac(a)
		subtle.XORBytes(d[:], d[:], m[:])
	}
	if len(plain) < blockSize {
		d = double(d)
		subtle.XORBytes(d[:], d[:], plain)
		d[len(plain)] ^= 0x80
		return s.cmac(d[:])
	}
	end := append([]byte(nil), plain...)
	tail := end[len(end)-blockSize:]
	subtle.XORBytes(tail, tail, d[:])
	return s.cmac(end)
}

// crypt encrypts and decrypts under a synthetic vector.
func (s *siv) crypt(v [blockSize]byte, text []byte) []byte {
	v[8] &= 0x7f
	v[12] &= 0x7f
	out := make([]byte, len(text))
	cipher.NewCTR(s.ctr, v[:]).XORKeyStream(out, text)
	return out
}

// seal returns the vector and the ciphertext. A nonce is the last associated data.
func (s *siv) seal(plain []byte, ad ...[]byte) []byte {
	v := s.s2v(plain, ad...)
	return append(v[:], s.crypt(v, plain)...)
}

// open is the inverse of seal; errForged where anything was changed.
func (s *siv) open(sealed []byte, ad ...[]byte) ([]byte, error) {
	if len(sealed) < blockSize {
		return nil, errForged
	}
	v := [blockSize]byte(sealed)
	plain := s.crypt(v, sealed[blockSize:])
	want := s.s2v(plain, ad...)
	if subtle.ConstantTimeCompare(v[:], want[:]) != 1 {
		return nil, errForged
	}
	return plain, nil
}
