package guard

// pass is the proof that the rules of an exposure were seen in force. It can
// only be made here.
type pass struct{ granted bool }
