package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"ntpveil/guard/lab"
)

const (
	// asProgram makes the test binary the program itself, to be run in the nodes of
	// a lab: no other binary has to be built, and it has the race detector in it.
	asProgram = "NTPVEIL_RUN"

	// resolvConf names the file that the program is shown as /etc/resolv.conf, in
	// the mount namespace that the lab has made for it.
	resolvConf = "NTPVEIL_RUN_RESOLV_CONF"
)

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		if err := showResolvConf(os.Getenv(resolvConf)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		main()
	}
	os.Exit(lab.Main(m.Run))
}

func showResolvConf(file string) error {
	if file == "" {
		return nil
	}
	target, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		return fmt.Errorf("find resolv.conf: %w", err)
	}
	if err := unix.Mount(file, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	return nil
}
