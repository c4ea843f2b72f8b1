package sysclock

import (
	"bytes"
	"io"
	"os"
)

// localRTC reports whether the hardware clock holds local time. Once a clock is
// marked as synchronised, the kernel writes it to the hardware clock every eleven
// minutes, as UTC: such a host would then boot hours off.
func (f Files) localRTC() bool {
	if f.Adjtime == "" {
		return false
	}
	file, err := os.Open(f.Adjtime)
	if err != nil {
		return false // as hwclock(8): without it, UTC
	}
	defer file.Close()
	text, _ := io.ReadAll(io.LimitReader(file, 4096))
	return saysLocal(text)
}

// saysLocal reads adjtime_config(5): its third line is UTC, LOCAL or not there.
func saysLocal(text []byte) bool {
	lines := bytes.SplitN(text, []byte("\n"), 4)
	return len(lines) >= 3 && string(bytes.TrimRight(lines[2], " \t\r")) == "LOCAL"
}
