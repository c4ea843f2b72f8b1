// Package nts speaks Network Time Security (RFC 8915): the key exchange with a
// server, and the protection of the queries that follow.
//
// Guarantees:
//   - The key exchange leaves from the address and port that it is given, over TLS
//     1.3 alone, without session tickets, and only a certificate of the name that
//     was asked for ends it well. It is over by its deadline, and reads at most
//     128 KiB whatever the server sends.
//   - Its segments are small in both directions (TCP_MAXSEG), so that no
//     packet-too-big is needed, which a throw-away address would not get.
//   - Its connection is over when it returns: ended by both sides, or reset. Nothing
//     of it comes to the address later, where it would pass for a probe.
//   - An answer is believed only where the authenticator fits, over the very
//     request that was sent (the unique identifier), with the server's key. What
//     stands behind the authenticator is not looked at, and cookies are taken from
//     its encrypted part alone.
//   - A NAK is told, since it is a reason to exchange keys anew, and proves nothing.
//   - Keys and cookies are in no error text.
//   - What a server sends is bounded: eight cookies of 256 bytes.
//
// AES-SIV is written here, over crypto/aes: a hundred lines that are held to the
// vectors of RFC 5297.
//
// # Certificates and a wrong clock
//
// A certificate is judged by the host's clock, unless that is certainly wrong: at
// boot it stood before the build date, or before what it was saved at, and was not
// corrected since. Then one is accepted that is valid at some time after that date
// (RFC 8915 section 8.5). What the server says the time is has to lie within the
// certificate's validity: the core sees to it.
package nts
