package messages

//go:generate go run ./catalog ../../../units/lull.catalog
