package api

// turns bounds how many run beside each other.
type turns chan struct{}

func (t turns) take() (give func()) {
	t <- struct{}{}
	return func() { <-t }
}
