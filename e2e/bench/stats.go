package main

import (
	"math"
	"slices"
	"time"
)

// median is the middle of the samples; of an even number, the mean of the two.
func median(list []float64) float64 { return quantile(list, 0.5) }

// quantile interpolates between the samples on both sides of q.
func quantile(list []float64, q float64) float64 {
	if len(list) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(list))
	at := q * float64(len(sorted)-1)
	low := int(at)
	if low+1 == len(sorted) {
		return sorted[low]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}

// quartiles are the bounds of the middle half.
func quartiles(list []float64) []float64 {
	return []float64{quantile(list, 0.25), quantile(list, 0.75)}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// inTurns calls all takers, one after the other, n times; each appends what it
// measures. The first rounds warm caches up and are forgotten.
func inTurns(warm, n int, takers ...func() float64) [][]float64 {
	lists := make([][]float64, len(takers))
	for i := range warm + n {
		for k, take := range takers {
			if v := take(); i >= warm {
				lists[k] = append(lists[k], v)
			}
		}
	}
	return lists
}

// minus subtracts, sample by sample.
func minus(a, b []float64) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = a[i] - b[i]
	}
	return out
}
