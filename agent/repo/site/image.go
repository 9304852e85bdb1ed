package site

import (
	"bytes"
	"image"
	"image/color"
	_ "image/gif" // icons and screenshots of packages
	"image/jpeg"
	"image/png"

	"github.com/lull/lull/agent/lib/errkind"
)

// The bounds of pictures of packages.
const (
	maxIcon   = 2 << 20  // bytes
	maxScreen = 16 << 20 // bytes
	maxPixels = 16 << 20
	iconSide  = 128  // pixels, of the page's icons
	screenTo  = 1600 // pixels, the width of the page's screenshots
)

// picture is a picture of the page: what a decoder has read, encoded by this program. So
// nothing but pixels of the package's file is in it.
type picture struct {
	data          []byte
	ext           string
	width, height int
}

// raster decodes a PNG, JPEG or GIF, reduces it to at most width × height, and encodes it.
func raster(data []byte, width, height int) (*picture, error) {
	c, format, err := image.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return nil, errkind.Errorf("it is no PNG, JPEG or GIF: %w", err)
	}
	if c.Width < 1 || c.Height < 1 || c.Width > maxPixels/c.Height {
		return nil, errkind.Errorf("a picture of %d × %d pixels is too large", c.Width, c.Height)
	}
	img, _, err := image.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	img = reduce(img, width, height)
	p := &picture{ext: ".png", width: img.Bounds().Dx(), height: img.Bounds().Dy()}
	var b bytes.Buffer
	if format == "jpeg" {
		p.ext = ".jpg"
		err = jpeg.Encode(&b, img, &jpeg.Options{Quality: 88})
	} else {
		err = (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&b, img)
	}
	p.data = b.Bytes()
	return p, err
}

// reduce makes a picture fit into width × height, with its proportions. Each pixel is the mean
// of those that it covers.
func reduce(img image.Image, width, height int) image.Image {
	b := img.Bounds()
	w, h := b.Dx(), b.Dy()
	if w <= width && h <= height {
		return img
	}
	if w*height > h*width {
		height = max(1, h*width/w)
	} else {
		width = max(1, w*height/h)
	}
	small := image.NewNRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		y0, y1 := b.Min.Y+y*h/height, b.Min.Y+(y+1)*h/height
		for x := range width {
			x0, x1 := b.Min.X+x*w/width, b.Min.X+(x+1)*w/width
			small.Set(x, y, mean(img, x0, y0, max(x1, x0+1), max(y1, y0+1)))
		}
	}
	return small
}

// mean returns the mean of a part of a picture.
func mean(img image.Image, x0, y0, x1, y1 int) color.RGBA64 {
	var r, g, b, a, n uint64
	for y := y0; y < y1; y++ {
		for x := x0; x < x1; x++ {
			cr, cg, cb, ca := img.At(x, y).RGBA()
			r, g, b, a, n = r+uint64(cr), g+uint64(cg), b+uint64(cb), a+uint64(ca), n+1
		}
	}
	return color.RGBA64{R: uint16(r / n), G: uint16(g / n), B: uint16(b / n), A: uint16(a / n)}
}
