package guardtest

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
)

// Loopback brings the loopback device up where it is not: in the network
// namespace that `unshare -rn` makes for those who are not root.
func Loopback() error {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if lo.Flags&net.FlagUp != 0 {
		return nil
	}
	handle, err := netlink.NewHandle()
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer handle.Close()
	if err := handle.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: lo.Index}}); err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	return nil
}
