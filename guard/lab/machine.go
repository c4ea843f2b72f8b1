package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Boot runs a static program as the first and only one of a virtual machine and
// returns what it printed. The machine's clock is its own: it may be set. The
// processor is emulated, so it takes some seconds; it needs no privilege, but
// qemu-system-x86_64 and a kernel, vmlinuz, on the PATH.
func Boot(ctx context.Context, program string, args ...string) ([]byte, error) {
	kernel, err := exec.LookPath("vmlinuz")
	if err != nil {
		return nil, fmt.Errorf("boot machine: %w", err)
	}
	code, err := os.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("boot machine: %w", err)
	}
	dir, err := os.MkdirTemp("", "ntpveil-machine")
	if err != nil {
		return nil, fmt.Errorf("boot machine: %w", err)
	}
	defer os.RemoveAll(dir)
	initrd := filepath.Join(dir, "initrd")
	if err := os.WriteFile(initrd, firstFiles(code), 0o600); err != nil {
		return nil, fmt.Errorf("boot machine: %w", err)
	}
	line := "console=ttyS0 quiet panic=-1 mitigations=off clocksource=hpet rdinit=/init -- " + strings.Join(args, " ")
	c := exec.CommandContext(ctx, "qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "qemu64,-cx16", "-m", "512",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-rtc", "base=1999-01-01T00:00:00,clock=vm", "-kernel", kernel, "-initrd", initrd, "-append", line)
	out, err := c.CombinedOutput()
	out, _, _ = bytes.Cut(out, []byte("Kernel panic")) // it has no other end when its first program ends
	if err != nil {
		return out, fmt.Errorf("boot machine: %w", err)
	}
	return out, nil
}

// firstFiles is the machine's first and only file system: the program, and a
// console for it to print on.
func firstFiles(program []byte) []byte {
	const (
		folder  = 0o040755
		regular = 0o100755
		device  = 0o020600
	)
	var b bytes.Buffer
	archive(&b, "dev", folder, 0, nil)
	archive(&b, "tmp", folder, 0, nil)
	archive(&b, "dev/console", device, 5<<8|1, nil)
	archive(&b, "init", regular, 0, program)
	archive(&b, "TRAILER!!!", 0, 0, nil)
	return b.Bytes()
}

// archive adds a file in the form that the kernel unpacks
// (Documentation/driver-api/early-userspace/buffer-format.rst). dev is the
// number of a device, its major above eight bits of minor.
func archive(b *bytes.Buffer, name string, mode, dev uint32, data []byte) {
	b.WriteString("070701")
	for _, field := range []uint32{0, mode, 0, 0, 1, 0, uint32(len(data)), 0, 0, dev >> 8, dev & 0xff, uint32(len(name)) + 1, 0} {
		fmt.Fprintf(b, "%08x", field)
	}
	b.WriteString(name)
	b.WriteByte(0)
	align(b)
	b.Write(data)
	align(b)
}

func align(b *bytes.Buffer) { b.Write(make([]byte, -b.Len()&3)) }
