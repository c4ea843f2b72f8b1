package nft

import (
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// needDevices fails where a device does not exist. Linux 6.16 and later take the
// name of any device and wait for it; those before refuse the whole transaction.
func needDevices(netns int, names []string) error {
	there, err := existing(netns, names)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !slices.Contains(there, name) {
			return fmt.Errorf("guard device %s: %w", name, ErrNoDevice)
		}
	}
	return nil
}

// existing are the devices that exist.
func existing(netns int, names []string) ([]string, error) {
	if len(names) == 0 {
		return nil, nil
	}
	nl, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: netns})
	if err != nil {
		return nil, fmt.Errorf("open route socket: %w", err)
	}
	defer nl.Close()
	var out []string
	for _, name := range names {
		_, err := nl.Execute(netlink.Message{
			Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request},
			Data:   attrs(make([]byte, unix.SizeofIfInfomsg)).text(unix.IFLA_IFNAME, name),
		})
		switch {
		case err == nil:
			out = append(out, name)
		case !errors.Is(err, unix.ENODEV):
			return nil, fmt.Errorf("find device %s: %w", name, err)
		}
	}
	return out, nil
}
