// Package control is the control socket, both ends: one request a line and one
// reply a line, in JSON.
//
// Who may do what follows from the peer's credentials (unix(7), SO_PEERCRED and
// SO_PEERGROUPS), not from the socket's mode: everyone may ask for the status and
// wait for the clock; root and members of the group ntpveil see exposures and may
// ask for a sync; the rest is root's. Requests are bounded in size, time and number.
package control
