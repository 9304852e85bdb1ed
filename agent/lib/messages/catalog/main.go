// Command catalog writes the journal catalog to the file that it is given.
package main

import (
	"log"
	"os"

	"github.com/lull/lull/agent/lib/messages"
)

func main() {
	if err := os.WriteFile(os.Args[1], []byte(messages.Catalog()), 0o644); err != nil {
		log.Fatal(err)
	}
}
