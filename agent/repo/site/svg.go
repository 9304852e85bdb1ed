package site

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"strings"

	"github.com/lull/lull/agent/lib/errkind"
)

// The bounds of an SVG picture.
const (
	maxSVG    = 512 << 10 // bytes
	maxNodes  = 20_000    // elements
	maxDepth  = 100
	maxWeight = 100_000 // elements that are drawn, with those that references repeat
)

const svgSpace = "http://www.w3.org/2000/svg"

// svgElements are the elements that are kept. None of them runs or loads anything: scripts,
// links, animations, foreign objects and images of filters are left out.
var svgElements = set(`svg g defs symbol use title desc path rect circle ellipse line polyline polygon text tspan
	linearGradient radialGradient stop clipPath mask pattern marker image style filter feBlend feColorMatrix
	feComponentTransfer feComposite feConvolveMatrix feDiffuseLighting feDisplacementMap feDistantLight feDropShadow
	feFlood feFuncA feFuncB feFuncG feFuncR feGaussianBlur feMerge feMergeNode feMorphology feOffset fePointLight
	feSpecularLighting feSpotLight feTile feTurbulence`)

// svgAttributes are the attributes that are kept, besides href of an element of the same file.
var svgAttributes = set(`id class style x y x1 x2 y1 y2 cx cy r rx ry fx fy fr d dx dy points width height viewBox version
	preserveAspectRatio transform gradientTransform patternTransform gradientUnits patternUnits patternContentUnits
	clipPathUnits maskUnits maskContentUnits filterUnits primitiveUnits spreadMethod offset stop-color stop-opacity
	fill fill-opacity fill-rule stroke stroke-width stroke-opacity stroke-linecap stroke-linejoin stroke-miterlimit
	stroke-dasharray stroke-dashoffset opacity color display visibility overflow clip-path clip-rule mask filter
	color-interpolation-filters color-interpolation enable-background isolation mix-blend-mode paint-order
	vector-effect shape-rendering text-rendering image-rendering font-family font-size font-style font-weight
	text-anchor letter-spacing word-spacing marker-start marker-mid marker-end markerWidth markerHeight markerUnits
	refX refY orient in in2 result mode operator k1 k2 k3 k4 type values stdDeviation radius scale xChannelSelector
	yChannelSelector tableValues slope intercept amplitude exponent flood-color flood-opacity lighting-color
	surfaceScale diffuseConstant specularConstant specularExponent azimuth elevation z pointsAtX pointsAtY
	pointsAtZ limitingConeAngle baseFrequency numOctaves seed stitchTiles order kernelMatrix divisor bias targetX
	targetY edgeMode preserveAlpha textLength lengthAdjust`)

func set(words string) map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(words) {
		m[w] = true
	}
	return m
}

var (
	urlUse   = regexp.MustCompile(`(?i)url\(\s*["']?\s*`)
	localUse = regexp.MustCompile(`(?i)^url\(\s*["']?#([^"')\s]+)["']?\s*\)`)
)

// node is an element of a picture, or a text.
type node struct {
	name     string // "" means a text
	text     string
	attrs    [][2]string
	children []*node
	refs     []string // ids of other elements that it draws
	weight   int      // elements that are drawn for it; 0 is not known, -1 is being computed
}

// vector returns an SVG picture with the elements and attributes of the lists above. So it
// harms no one even if a browser opens it by itself. Pictures in it are encoded again.
func vector(data []byte) (*picture, error) {
	if len(data) > maxSVG {
		return nil, errkind.Errorf("an SVG picture of %d bytes is too large", len(data))
	}
	root, err := parseSVG(data)
	if err != nil {
		return nil, err
	}
	byID := map[string]*node{}
	root.index(byID)
	if n, err := root.draws(byID); err != nil {
		return nil, err
	} else if n > maxWeight {
		return nil, errkind.Errorf("an SVG picture that draws %d elements is too large", n)
	}
	var b bytes.Buffer
	root.write(&b, true)
	return &picture{data: b.Bytes(), ext: ".svg", width: iconSide, height: iconSide}, nil
}

func parseSVG(data []byte) (*node, error) {
	dec := xml.NewDecoder(bytes.NewReader(data))
	dec.CharsetReader = func(string, io.Reader) (io.Reader, error) { return nil, errkind.Errorf("it is not UTF-8") }
	dec.Entity = map[string]string{}
	var root *node
	var open []*node
	count := 0
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, errkind.Errorf("it is no SVG: %w", err)
		}
		switch e := token.(type) {
		case xml.StartElement:
			if count++; count > maxNodes || len(open) > maxDepth {
				return nil, errkind.Errorf("an SVG picture of so many elements is too large")
			}
			if root == nil && (e.Name.Space != svgSpace || e.Name.Local != "svg") {
				return nil, errkind.Errorf("it is no SVG: it begins with %.40q", e.Name.Local)
			}
			n := kept(e)
			if n == nil {
				if err := dec.Skip(); err != nil {
					return nil, errkind.Errorf("it is no SVG: %w", err)
				}
				continue
			}
			if root == nil {
				root = n
			} else if len(open) == 0 {
				return nil, errkind.Errorf("it is no SVG: something follows it")
			} else {
				parent := open[len(open)-1]
				parent.children = append(parent.children, n)
			}
			open = append(open, n)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) == 0 {
				continue
			}
			parent := open[len(open)-1]
			text := string(e)
			switch parent.name {
			case "text", "tspan", "title", "desc":
			case "style":
				if !harmless(text) {
					text = ""
				}
			default:
				text = ""
			}
			if text != "" {
				parent.children = append(parent.children, &node{text: text})
			}
		}
	}
	if root == nil {
		return nil, errkind.Errorf("it is no SVG")
	}
	return root, nil
}

// kept returns an element with the attributes that are kept, or nil.
func kept(e xml.StartElement) *node {
	if e.Name.Space != svgSpace || !svgElements[e.Name.Local] {
		return nil
	}
	n := &node{name: e.Name.Local}
	for _, a := range e.Attr {
		switch {
		case a.Name.Local == "href" && (a.Name.Space == "" || a.Name.Space == "http://www.w3.org/1999/xlink"):
			n.link(strings.TrimSpace(a.Value))
		case a.Name.Space == "" && svgAttributes[a.Name.Local] && harmless(a.Value):
			n.attrs = append(n.attrs, [2]string{a.Name.Local, a.Value})
			for _, i := range urlUse.FindAllStringIndex(a.Value, -1) {
				n.refs = append(n.refs, localUse.FindStringSubmatch(a.Value[i[0]:])[1])
			}
		}
	}
	return n
}

// link sets the reference of an element: to one of the same file, or to a picture inside of it.
func (n *node) link(to string) {
	if id, ok := strings.CutPrefix(to, "#"); ok && n.name != "image" {
		n.attrs = append(n.attrs, [2]string{"href", to})
		n.refs = append(n.refs, id)
		return
	}
	kind, data, ok := strings.Cut(to, ";base64,")
	if !ok || n.name != "image" || kind != "data:image/png" && kind != "data:image/jpeg" {
		return
	}
	raw, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(data), ""))
	if err != nil {
		return
	}
	if p, err := raster(raw, 512, 512); err == nil {
		kind := map[string]string{".png": "image/png", ".jpg": "image/jpeg"}[p.ext]
		n.attrs = append(n.attrs, [2]string{"href", "data:" + kind + ";base64," + base64.StdEncoding.EncodeToString(p.data)})
	}
}

// harmless reports whether a style or value loads nothing: each url() is an element of the
// same file, and nothing is escaped or imported.
func harmless(value string) bool {
	if strings.ContainsAny(value, `\@<`) {
		return false
	}
	for _, i := range urlUse.FindAllStringIndex(value, -1) {
		if !localUse.MatchString(value[i[0]:]) {
			return false
		}
	}
	lower := strings.ToLower(value)
	return !strings.Contains(lower, "expression(") && !strings.Contains(lower, "image-set(") && !strings.Contains(lower, "image(")
}

// index adds the elements with an id. The first one counts.
func (n *node) index(byID map[string]*node) {
	for _, a := range n.attrs {
		if a[0] == "id" && byID[a[1]] == nil {
			byID[a[1]] = n
		}
	}
	for _, c := range n.children {
		c.index(byID)
	}
}

// draws returns the number of elements that are drawn for an element. A reference that leads
// back to it is an error.
func (n *node) draws(byID map[string]*node) (int, error) {
	if n.weight < 0 {
		return 0, errkind.Errorf("an SVG picture that contains itself cannot be drawn")
	}
	if n.weight > 0 {
		return n.weight, nil
	}
	n.weight = -1
	sum := 1
	add := func(of *node) error {
		w, err := of.draws(byID)
		sum = min(sum+w, maxWeight+1)
		return err
	}
	for _, c := range n.children {
		if err := add(c); err != nil {
			return 0, err
		}
	}
	for _, id := range n.refs {
		if of := byID[id]; of != nil {
			if err := add(of); err != nil {
				return 0, err
			}
		}
	}
	n.weight = sum
	return sum, nil
}

func (n *node) write(b *bytes.Buffer, root bool) {
	if n.name == "" {
		_ = xml.EscapeText(b, []byte(n.text)) // a buffer does not fail
		return
	}
	b.WriteString("<" + n.name)
	if root {
		b.WriteString(` xmlns="` + svgSpace + `"`)
	}
	for _, a := range n.attrs {
		b.WriteString(" " + a[0] + `="`)
		_ = xml.EscapeText(b, []byte(a[1]))
		b.WriteString(`"`)
	}
	if len(n.children) == 0 {
		b.WriteString("/>")
		return
	}
	b.WriteString(">")
	for _, c := range n.children {
		c.write(b, false)
	}
	b.WriteString("</" + n.name + ">")
}
