package nft

import (
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// needDevices fails where a device does not exist. From Linux 6.16 the kernel takes
// the name of any device and waits for it, before it refuses the whole transaction
// without saying which device it is about: so that is asked first.
func needDevices(netns int, names []string) error {
	if len(names) == 0 {
		return nil
	}
	nl, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: netns})
	if err != nil {
		return fmt.Errorf("open route socket: %w", err)
	}
	defer nl.Close()
	for _, name := range names {
		_, err := nl.Execute(netlink.Message{
			Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request},
			Data:   attrs(make([]byte, unix.SizeofIfInfomsg)).text(unix.IFLA_IFNAME, name),
		})
		if errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("guard device %s: %w", name, ErrNoDevice)
		}
		if err != nil {
			return fmt.Errorf("find device %s: %w", name, err)
		}
	}
	return nil
}
