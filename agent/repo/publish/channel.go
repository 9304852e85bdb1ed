package publish

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/repo"
)

// olderNotes bounds the notes, in bytes, of an offer that is not the newest.
const olderNotes = 2 << 10

// offers returns the current offers of a channel. Nil means that there is no such channel.
// Error Untrusted: the file is not the signed one.
func (s *state) offers(name, channel string) (repo.Offers, error) {
	t, err := s.target(repo.PointerPath(name, channel))
	if err != nil || t == nil {
		return nil, err
	}
	return s.offersOf(name, channel, t)
}

// offersOf is offers with the target of the channel. It may be used from any goroutine.
func (s *state) offersOf(name, channel string, t *metadata.TargetFiles) (repo.Offers, error) {
	file, err := repo.OffersOf(t.Custom)
	if err != nil {
		return nil, err
	}
	path, sum := pointerFile(name, channel, t), digest.Digest(t.Hashes["sha256"])
	if file != nil {
		path, sum = repo.OffersPath(name, channel, file.SHA256), file.SHA256
	}
	data, err := s.read(path)
	if err != nil {
		return nil, err
	}
	if digest.Of(data) != sum {
		return nil, errkind.New(errkind.Untrusted, "cannot trust channel %q of %s: %s is not the file that was signed", channel, name, path)
	}
	var list repo.Offers
	if file != nil {
		list, err = repo.ParseOffers(data)
	} else if p, perr := repo.ParsePointer(data); perr == nil {
		list = repo.Offers{{Pointer: *p}}
	} else {
		err = perr
	}
	if err != nil {
		return nil, err
	}
	list[0].Summary = repo.SummaryOf(t.Custom)
	return list, nil
}

func pointerFile(name, channel string, t *metadata.TargetFiles) string {
	return "channels/" + name + "/" + t.Hashes["sha256"].String() + "." + channel + ".json"
}

// before returns the offers that remain after a new one, because machines may have to return
// to them, down to the second one that reaches all machines, with any lull. A halt of the new
// one leaves the other machines with those.
func before(list repo.Offers, next *repo.Offer, now time.Time) repo.Offers {
	if len(list) > 0 && list[0].Package == next.Package {
		list = list[1:] // another rollout of the same package
	}
	var kept repo.Offers
	for _, o := range list {
		o.Notes = shorten(o.Notes, olderNotes)
		kept = append(kept, o)
		if o.Percent(now) >= 100 && o.NeedsLull == "" {
			break
		}
	}
	for len(kept) > repo.MaxOffers-1 {
		kept = slices.Delete(kept, len(kept)-2, len(kept)-1) // the last one is for all
	}
	return kept
}

// setOffers publishes a channel's offers.
func (s *state) setOffers(list repo.Offers) error {
	if err := s.writeOffers(list); err != nil {
		return err
	}
	return s.writeAll()
}

// writeOffers writes the files of a channel's offers, and the pointer for earlier versions of
// lull: the newest offer that they can use, with the share of machines that it reaches now.
func (s *state) writeOffers(list repo.Offers) error {
	first := &list.ForAnyLull()[0]
	p := first.Pointer
	p.Rollout.Percent = first.Percent(s.now)
	data, err := p.Encode()
	if err != nil {
		return err
	}
	sum := digest.Of(data)
	target := metadata.TargetFile()
	target.Length = int64(len(data))
	target.Hashes["sha256"] = metadata.HexBytes(sum[:])
	if err := s.store.Put(s.ctx, Object{Path: pointerFile(p.Name, p.Channel, target), Data: data}); err != nil {
		return err
	}
	var file *repo.OffersFile
	if len(list) > 1 || len(list[0].Steps) > 0 || list[0].Halted != nil || list[0].NeedsLull != "" || len(list[0].Deltas) > 0 {
		data, err := list.Encode()
		if err != nil {
			return err
		}
		file = &repo.OffersFile{SHA256: digest.Of(data), Length: int64(len(data))}
		if err := s.store.Put(s.ctx, Object{Path: repo.OffersPath(p.Name, p.Channel, file.SHA256), Data: data}); err != nil {
			return err
		}
	}
	if target.Custom, err = repo.CustomOf(file, list[0].Summary); err != nil {
		return err
	}
	return s.setTarget(repo.PointerPath(p.Name, p.Channel), target)
}

// files returns the files of a channel, relative to the repository.
func (s *state) files(name, channel string) ([]string, error) {
	t, err := s.target(repo.PointerPath(name, channel))
	if err != nil {
		return nil, err
	}
	list := []string{pointerFile(name, channel, t)}
	file, err := repo.OffersOf(t.Custom)
	if file != nil {
		list = append(list, repo.OffersPath(name, channel, file.SHA256))
	}
	return list, err
}

// ChannelOptions name a channel of a package. The default of Channel is stable.
type ChannelOptions struct {
	Common
	Name    string
	Channel string
	// Version restricts the change to a version. If the channel's newest one is another,
	// the error is Conflict. "" means any.
	Version string
}

// HaltOptions are the options of Halt.
type HaltOptions struct {
	ChannelOptions
	Reason string // for people, signed into the channel
}

// Halt suspends the rollout of a channel's newest version: no further machine gets it. The
// machines that have it keep it, and the others keep the version before. The first Halt
// counts; a second one has no effect.
func Halt(ctx context.Context, dir string, o HaltOptions) (repo.Offers, error) {
	return o.change(ctx, dir, "halt", func(s *state, list repo.Offers) (bool, error) {
		if list[0].Halted != nil {
			return false, nil
		}
		list[0].Halted = &repo.Halt{At: s.now, Reason: shorten(o.Reason, repo.MaxReason)}
		return true, nil
	})
}

// Resume is the opposite of Halt. The rollout continues with the share of machines that it
// had reached, and its later steps are delayed by the duration of the halt.
func Resume(ctx context.Context, dir string, o ChannelOptions) (repo.Offers, error) {
	return o.change(ctx, dir, "resume", func(s *state, list repo.Offers) (bool, error) {
		h := list[0].Halted
		if h == nil {
			return false, nil
		}
		if len(list[0].Steps) > 0 {
			list[0].Start = list[0].Start.Add(max(0, s.now.Sub(h.At)))
		}
		list[0].Halted = nil
		return true, nil
	})
}

// PromoteOptions are the options of Promote.
type PromoteOptions struct {
	ChannelOptions
	From    string       // the channel whose newest version is offered in Channel; "" means Channel itself
	Rollout *int         // percent of the machines; default: 100
	Steps   []repo.Step  // rollout by time, from now on; replaces Rollout
	Urgency repo.Urgency // default: that of the version
	Notes   string       // default: those of the version
}

// Promote offers the newest version of a channel to all machines or, with a rollout, to a
// share of them. With From, the newest version of another channel becomes the newest of this
// one. The package's source is not required. Error Conflict: the version is halted.
func Promote(ctx context.Context, dir string, o PromoteOptions) (repo.Offers, error) {
	return o.with(ctx, dir, "promote", func(s *state) (repo.Offers, error) {
		from := o.From
		if from == "" {
			from = o.Channel
		}
		source, err := o.find(s, from)
		if err != nil {
			return nil, err
		}
		next := source[0]
		if next.Halted != nil {
			return nil, errkind.New(errkind.Conflict, "version %s is halted", next.Version).WithHint("lull channel resume goes on with it")
		}
		list, err := s.offers(o.Name, o.Channel)
		if err != nil {
			return nil, err
		}
		same := len(list) > 0 && list[0].Package == next.Package && list[0].Halted == nil
		if same && o.Rollout == nil && len(o.Steps) == 0 && list[0].Percent(s.now) >= 100 && o.Urgency == "" && o.Notes == "" {
			return list, nil // unchanged
		}
		next.Channel, next.Start, next.Steps, next.Rollout.Percent = o.Channel, time.Time{}, nil, 100
		if !same {
			next.Published = s.now
		}
		if o.Rollout != nil {
			next.Rollout.Percent = *o.Rollout
		}
		if o.Urgency != "" {
			next.Urgency = o.Urgency
		}
		if o.Notes != "" {
			next.Notes = shorten(o.Notes, repo.MaxNotes)
		}
		if len(o.Steps) > 0 {
			next.Start, next.Steps = s.now, o.Steps
		}
		if err := s.copyRequest(o.Name, from, o.Channel, next.Package); err != nil {
			return nil, err
		}
		list = append(repo.Offers{next}, before(list, &next, s.now)...)
		return list, s.setOffers(list)
	})
}

// ReadChannel returns the offers of a channel.
func ReadChannel(ctx context.Context, dir string, o ChannelOptions) (repo.Offers, error) {
	return o.with(ctx, dir, "read", func(s *state) (repo.Offers, error) { return o.find(s, o.Channel) })
}

// find returns the offers of an existing channel.
func (o *ChannelOptions) find(s *state, channel string) (repo.Offers, error) {
	list, err := s.offers(o.Name, channel)
	if err == nil && list == nil {
		err = errkind.New(errkind.NotFound, "the repository has no channel %q of %s", channel, o.Name)
	}
	if err == nil && o.Version != "" && list[0].Version != o.Version {
		err = errkind.New(errkind.Conflict, "version %s is the newest of channel %q, not %s", list[0].Version, channel, o.Version)
	}
	return list, err
}

// change calls edit with a channel's offers, and signs them if it returns true.
func (o *ChannelOptions) change(ctx context.Context, dir, what string, edit func(*state, repo.Offers) (bool, error)) (repo.Offers, error) {
	return o.with(ctx, dir, what, func(s *state) (repo.Offers, error) {
		list, err := o.find(s, o.Channel)
		if err != nil {
			return nil, err
		}
		changed, err := edit(s, list)
		if err != nil || !changed {
			return list, err
		}
		return list, s.setOffers(list)
	})
}

// with calls do while it holds the lock of a repository.
func (o *ChannelOptions) with(ctx context.Context, dir, what string, do func(*state) (repo.Offers, error)) (repo.Offers, error) {
	if o.Channel == "" {
		o.Channel = "stable"
	}
	if err := errors.Join(manifest.ValidName(o.Name), repo.ValidChannel(o.Channel)); err != nil {
		return nil, err
	}
	var list repo.Offers
	err := o.transact(ctx, dir, false, func(s *state) (err error) {
		if list, err = do(s); err != nil {
			return errkind.New(errkind.KindOf(err), "cannot %s channel %q of %s: %w", what, o.Channel, o.Name, err).WithHint("%s", errkind.HintOf(err))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}
