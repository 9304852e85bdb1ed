// Package converter is the program lull-convert. It reads files from its standard input
// and writes a stream (package convert) to its standard output. The standard input is a
// regular file with one file after the other; the arguments are their sizes and names.
//
// Before it reads the first byte it drops its rights (confine): it can open no path and no
// connection, and write no file. Its memory and processor time are bounded. It has one
// goroutine of its own.
package converter

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync/atomic"

	"github.com/lull/lull/agent/convert"
	"github.com/lull/lull/agent/convert/derive"
	"github.com/lull/lull/agent/convert/unpack"
	"github.com/lull/lull/agent/lib/manifest"
)

// Main runs the program and returns its exit status: 0, or 1 with one line on stderr.
func Main(_ context.Context, args []string, stdout, stderr io.Writer) int {
	err := run(args, stdout)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

func run(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("lull-convert", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	var o derive.Options
	flags.StringVar(&o.Name, "name", "", "")
	flags.StringVar(&o.Version, "version", "", "")
	flags.BoolVar(&o.Unattended, "unattended", false, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	inputs, err := parse(flags.Args())
	if err != nil {
		return err
	}
	o.File = inputs[0].name
	if err := confine(); err != nil {
		return err
	}
	in := os.Stdin
	if info, err := in.Stat(); err != nil || !info.Mode().IsRegular() {
		return errors.Join(err, errors.New("the standard input is no regular file"))
	}
	out := convert.NewWriter(stdout)
	counted := &counter{r: in}
	out.Position = counted.n.Load
	tree := unpack.NewTree(out, unpack.DefaultLimits)
	var at int64
	for _, i := range inputs {
		if err := tree.Add(i.name, io.NewSectionReader(counted, at, i.size), i.size); err != nil {
			return err
		}
		at += i.size
	}
	tree.Finish()
	d := &convert.Description{Scripts: tree.Scripts, Needs: tree.Missing()}
	if tree.Nodes[convert.SourceFile] != nil {
		if o.Name != "" || o.Version != "" {
			return fmt.Errorf("%s: its name and version are those of its %s; --with FILE replaces them", inputs[0].name, convert.SourceFile)
		}
		d.Source, d.Launch = true, manifest.Launch{Name: "source", Version: "0"}
	} else if d.Launch, err = derive.Launch(tree, o); err != nil {
		return fmt.Errorf("%s: %w", inputs[0].name, err)
	}
	d.Entries, d.Remarks = tree.Entries(), tree.Remarks()
	return out.Done(d)
}

// counter counts the bytes that are read. Decompressors read in goroutines of their own.
type counter struct {
	r io.ReaderAt
	n atomic.Int64
}

func (c *counter) ReadAt(b []byte, at int64) (int, error) {
	n, err := c.r.ReadAt(b, at)
	c.n.Add(int64(n))
	return n, err
}

// input is a file in the standard input.
type input struct {
	size int64 // bytes
	name string
}

// parse reads one or more pairs SIZE NAME.
func parse(args []string) (list []input, err error) {
	for len(args) >= 2 {
		size, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil || size < 0 {
			return nil, fmt.Errorf("%.40q is no size", args[0])
		}
		list, args = append(list, input{size, args[1]}), args[2:]
	}
	if len(list) == 0 || len(args) > 0 {
		return nil, errors.New("the arguments are not sizes and names of files")
	}
	return list, nil
}
