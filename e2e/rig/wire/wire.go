// Package wire is the protocol between the rig and its program in a virtual
// machine over a serial port: one JSON object a line.
//
// The rig sends Start with an ID of its choice, then Input, EOF and Signal with
// that ID; the guest answers with Out and Err, any number, and one Exit. Hello
// is the first message of a guest. Everything is of one machine's life:
// nothing is resumed after a boot.
package wire

// The kinds of messages.
const (
	Hello  = "hello"  // guest: it can run commands
	Start  = "start"  // rig: run Argv
	Input  = "input"  // rig: Data is for standard input
	EOF    = "eof"    // rig: no more input
	Signal = "signal" // rig: send the signal Code to the process group
	Out    = "out"    // guest: Data was written to standard output
	Err    = "err"    // guest: Data was written to standard error
	Exit   = "exit"   // guest: it has ended with Code, or could not be started because of Text
)

// Port is the name of the serial port.
const Port = "org.lull.guest"

// Message is one line.
type Message struct {
	Kind string
	ID   int      `json:",omitempty"`
	Argv []string `json:",omitempty"`
	Env  []string `json:",omitempty"`
	Dir  string   `json:",omitempty"`
	Data []byte   `json:",omitempty"`
	Code int      `json:",omitempty"`
	Text string   `json:",omitempty"`
}
