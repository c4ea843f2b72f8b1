package timeworld

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"ntpveil/guard"
)

// Scenario plays a script and returns it with what came of it. Lines that begin
// with "> " are the script; what follows each is rewritten. Empty lines and lines
// that begin with # are kept. Times are those of the truth, offsets what the clock
// is behind by.
//
//	> start WAN [seed=1] [servers=4] [offset=30ms] [drift=20] [observe] [max=5s] [when=always] [at=2016-12-31T12:00:00Z]
//	> run 1h
//	> summary          of the time since the last one
//	> servers          one line a server, by the core's word
//	> server 3 lie=1s | drag=50 (ppm) | walk=1ms (in a second) | tiny | with=2 (the same lie) | leap=insert | load=80ms | dead | alive | honest
//	> warm 5 10m       the crystal's frequency changes by so many ppm, with this time constant
//	> jump 5           the same, at once
//	> foreign 1s       another program steps the clock
//	> suspend 8h 400ms the clock is set by another crystal, which is off by so much
//	> restart | readonly | writable | sync | step
func Scenario(script string) (string, error) {
	var out strings.Builder
	s := &stage{}
	for _, line := range strings.Split(strings.TrimRight(script, "\n"), "\n") {
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
			fmt.Fprintln(&out, line)
		case strings.HasPrefix(line, "> "):
			fmt.Fprintln(&out, line)
			words := strings.Fields(line[2:])
			if s.World == nil && (len(words) < 2 || words[0] != "start") {
				return "", fmt.Errorf("%s: a scenario begins with a start", line)
			}
			if err := s.play(&out, words[0], words[1:]); err != nil {
				return "", fmt.Errorf("%s: %w", line, err)
			}
		}
	}
	return out.String(), nil
}

// stage is where a scenario plays.
type stage struct {
	*World
	since time.Duration // of the last summary
	fixes int           // made before it
	notes int           // said before it
	order guard.Key
}

func (s *stage) play(out *strings.Builder, verb string, args []string) error {
	switch verb {
	case "start":
		return s.start(args)
	case "summary":
		s.summary(out)
	case "servers":
		s.servers(out)
	case "server":
		return s.behave(args)
	case "restart":
		s.Start()
	case "readonly", "writable":
		s.mute = verb == "readonly"
	case "sync", "step":
		s.order++
		s.step(guard.Ordered{Key: 1<<63 + s.order, Verb: verb})
	default:
		return s.happen(verb, args)
	}
	return nil
}

// happen is what needs numbers.
func (s *stage) happen(verb string, args []string) error {
	var d [2]time.Duration
	for i, a := range args {
		if verb == "warm" && i == 0 || verb == "jump" {
			a += "us" // ppm: µs in a second
		}
		var err error
		if d[i%2], err = time.ParseDuration(a); err != nil {
			return err
		}
	}
	switch verb {
	case "run":
		s.Run(d[0])
	case "warm":
		s.clock.osc.warm(d[0].Seconds(), d[1])
	case "jump":
		s.clock.osc.drift += d[0].Seconds()
	case "foreign":
		s.clock.step(d[0])
		s.step(guard.Woke{})
	case "suspend":
		s.Suspend(d[0], d[1].Seconds())
	default:
		return fmt.Errorf("unknown line")
	}
	return nil
}

func (s *stage) start(args []string) error {
	p, ok := profile(args[0])
	if !ok {
		return fmt.Errorf("no profile %q", args[0])
	}
	set := Setting{Seed: 1, Profile: p}
	var change []func(c *guard.Config)
	set.Config = func(c *guard.Config) {
		for _, f := range change {
			f(c)
		}
	}
	for _, a := range args[1:] {
		key, value, _ := strings.Cut(a, "=")
		d, err := time.ParseDuration(value)
		switch key {
		case "observe":
			err, change = nil, append(change, func(c *guard.Config) { c.Observe = true })
		case "when":
			err, change = nil, append(change, func(c *guard.Config) { c.StepWhen = value })
		case "max":
			change = append(change, func(c *guard.Config) { c.MaxForward, c.MaxBackward = d, d })
		case "offset":
			set.Offset = d.Seconds()
		case "drift":
			set.Drift, err = strconv.ParseFloat(value, 64)
		case "seed":
			set.Seed, err = strconv.ParseUint(value, 10, 64)
		case "servers":
			set.Servers, err = strconv.Atoi(value)
		case "at":
			set.Begin, err = time.Parse(time.RFC3339, value)
		default:
			err = fmt.Errorf("unknown word %q", key)
		}
		if err != nil {
			return err
		}
	}
	s.World = New(set)
	return nil
}

// behave changes a server.
func (s *stage) behave(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("a number and what it does")
	}
	i, err := strconv.Atoi(args[0])
	if err != nil || i < 0 || i >= len(s.World.servers) {
		return fmt.Errorf("no server %q", args[0])
	}
	x := s.World.servers[i]
	key, value, _ := strings.Cut(args[1], "=")
	d, derr := time.ParseDuration(value)
	switch key {
	case "lie":
		x.lie, err = &lie{constant: d.Seconds(), from: s.clock.at}, derr
	case "walk":
		x.lie, err = &lie{walk: d.Seconds(), from: s.clock.at, rng: rand.New(rand.NewPCG(s.Seed, 0xfa15e))}, derr
	case "drag":
		x.lie = &lie{from: s.clock.at}
		x.lie.drag, err = strconv.ParseFloat(value, 64)
		x.lie.drag *= 1e-6
	case "with":
		var j int
		if j, err = strconv.Atoi(value); err == nil && j >= 0 && j < len(s.World.servers) {
			x.lie = s.World.servers[j].lie
		}
	case "load":
		x.way.loads, err = append(x.way.loads, load{from: s.clock.at, length: time.Hour, peak: d.Seconds()}), derr
	case "tiny":
		x.tiny = true
	case "leap":
		x.leap = map[string]uint8{"insert": 1, "delete": 2}[value]
	case "dead", "alive":
		x.dead = key == "dead"
	case "honest":
		x.lie, x.tiny = nil, false
	default:
		err = fmt.Errorf("unknown behaviour %q", key)
	}
	return err
}
