package guard

import "time"

// Status is what `ntpveil status --json` prints. Durations are in seconds,
// times in UTC.
type Status struct {
	Version      string `json:"version"`
	Synchronized bool   `json:"synchronized"`

	Clock          ClockStatus      `json:"clock"`
	Servers        []ServerStatus   `json:"servers"`
	Exposures      []ExposureStatus `json:"exposures,omitzero"` // left out for all but root and the group
	ExposureCount  int              `json:"exposure_count"`
	Neighbourhoods []HoodStatus     `json:"neighbourhoods"`
	Others         []OtherStatus    `json:"others,omitzero"`         // as exposures; most first, at most 100
	OthersDropped  uint64           `json:"others_dropped,omitzero"` // of all of them, those that are not listed as well
	Shield         ShieldStatus     `json:"shield"`
	Weaknesses     []Weakness       `json:"weaknesses"`
}

// ClockStatus is the host's clock as the last sync saw it.
type ClockStatus struct {
	Mode         string     `json:"mode"` // discipline or observe
	Offset       float64    `json:"offset_s"`
	Frequency    float64    `json:"frequency_ppm"`
	RootDistance float64    `json:"root_distance_s"`
	Stratum      int        `json:"stratum"`
	Leap         string     `json:"leap"` // normal, insert, delete or unsynchronized
	LastSync     *time.Time `json:"last_sync"`
	NextSync     *time.Time `json:"next_sync"`
}

// ServerStatus is one server's line.
type ServerStatus struct {
	Address string  `json:"address"`
	Name    string  `json:"name"`
	Pool    string  `json:"pool"`
	State   string  `json:"state"`  // selected, candidate, falseticker, unreachable, denied, leaky or new
	Letter  string  `json:"letter"` // the state in one: * - W d M x ? ! n L, see Letters
	Reason  string  `json:"reason"`
	Offset  float64 `json:"offset_s"`
	Delay   float64 `json:"delay_s"`
	Stratum int     `json:"stratum"`
	Reach   uint8   `json:"reach"` // bits of the last eight polls, the newest lowest
	Poll    float64 `json:"poll_s"`
	NTS     bool    `json:"nts"`
	Verdict string  `json:"verdict"`
}

// ExposureStatus is who has seen which address.
type ExposureStatus struct {
	Address      string     `json:"address"`
	Interface    string     `json:"interface"`
	Kind         string     `json:"kind"` // throw-away, stable or control
	Server       string     `json:"server"`
	AskedAt      *time.Time `json:"asked_at"`
	GuardedUntil *time.Time `json:"guarded_until"`
	ExistsUntil  *time.Time `json:"exists_until"`
	Probes       uint64     `json:"probes"` // packets that the guard dropped
}

// HoodStatus is one closed neighbourhood.
type HoodStatus struct {
	Prefix  string    `json:"prefix"`
	Server  string    `json:"server"`
	Until   time.Time `json:"until"`
	Dropped uint64    `json:"dropped"`
}

// OtherStatus is a network whose packets were dropped, or would have been, for another
// reason than a server that was asked (rules.Others).
type OtherStatus struct {
	Prefix  string `json:"prefix"`
	Dropped uint64 `json:"dropped"`
}

// ShieldStatus is whether the rules are in force.
type ShieldStatus struct {
	State  string     `json:"state"` // in force, observing, lost, disarmed or off
	Table  string     `json:"table"`
	Preset string     `json:"preset"`
	Until  *time.Time `json:"until,omitempty"` // end of a disarm

	Applied   bool         `json:"applied,omitempty"`    // the preset was applied by an admin, and is not the configured one's
	ConfirmBy *time.Time   `json:"confirm_by,omitempty"` // it is rolled back then, unless it is confirmed
	Reason    string       `json:"reason,omitempty"`
	Lists     []ListStatus `json:"lists"`
}

// ListStatus is one list of blocked prefixes.
type ListStatus struct {
	File     string `json:"file"`
	Prefixes int    `json:"prefixes"`
	InForce  bool   `json:"in_force"`
}

// Weakness is something that is weaker than it could be, and why.
type Weakness struct {
	Code string `json:"code"`
	Text string `json:"text"`
}
