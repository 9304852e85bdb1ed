package main

func (rep *report) chart() ([]byte, error) { return nil, nil }
