// Package strictyaml reads the YAML files that people write for lull: policy,
// repositories, package sources.
//
// It accepts a plain subset: one document, block or flow collections, scalars.
// Unknown and repeated keys, several documents, anchors, aliases, merge keys
// and foreign tags are refused. An error is one line, "FILE:LINE: cannot …",
// and one pass reports every problem of a file, not only the first.
//
// A target is a struct whose fields carry a yaml:"key" tag, and consists of
// structs, pointers, slices, maps with string keys, strings, booleans, signed
// integers and types with an UnmarshalText method. A key with nothing behind
// it counts as absent for collections, so that a section may be commented out
// line by line. A type whose shape varies implements Unmarshaler.
//
// A Document belongs to one goroutine. Nothing here blocks.
package strictyaml
