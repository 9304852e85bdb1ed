package launch

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/lull/lull/agent/lib/manifest"
)

// NVIDIA's driver consists of a kernel module and libraries of exactly its version, which need
// only the C library and X11. A runtime cannot have them, so the host's are shown to its
// programs, in a directory of their own: an overlay over the runtime's libraries would give
// those other inodes. The configuration of loaders that names them is put at its place.

// driverDir is the directory in the root of a runtime with the host's drivers.
const driverDir = ".driver"

// libraryDirs are where hosts have libraries. The dynamic linker skips those of other machines.
var libraryDirs = []string{
	"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/lib/i386-linux-gnu", "/usr/lib32",
}

// driverNames are the beginnings of the names of the driver's libraries. One of driverMain is in
// each installation.
var (
	driverMain  = []string{"libGLX_nvidia.so.0", "libEGL_nvidia.so.0", "libcuda.so.1"}
	driverNames = []string{
		"libGLX_nvidia.so", "libEGL_nvidia.so", "libGLESv1_CM_nvidia.so", "libGLESv2_nvidia.so", "libnvidia-",
		"libcuda.so", "libcudadebugger.so", "libnvcuvid.so", "libnvoptix.so", "libvdpau_nvidia.so", "nvidia-drm_gbm.so",
	}
)

// driverConfigs are directories with the configuration of the loaders of Vulkan and EGL, and
// where a runtime has it.
var driverConfigs = [][2]string{
	{"/usr/share/vulkan/icd.d", "/usr/share/vulkan/icd.d"}, {"/etc/vulkan/icd.d", "/usr/share/vulkan/icd.d"},
	{"/usr/share/vulkan/implicit_layer.d", "/usr/share/vulkan/implicit_layer.d"}, {"/etc/vulkan/implicit_layer.d", "/usr/share/vulkan/implicit_layer.d"},
	{"/usr/share/glvnd/egl_vendor.d", "/usr/share/glvnd/egl_vendor.d"}, {"/etc/glvnd/egl_vendor.d", "/usr/share/glvnd/egl_vendor.d"},
	{"/usr/share/egl/egl_external_platform.d", "/usr/share/egl/egl_external_platform.d"},
}

// openCL has the libraries of OpenCL by name, in files of one line.
const openCL = "/etc/OpenCL/vendors/nvidia.icd"

// driverDirs returns the directories of the host with the driver, each once.
func driverDirs() (dirs []string) {
	for _, dir := range libraryDirs {
		if !slices.ContainsFunc(driverMain, func(name string) bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil }) {
			continue
		}
		if dir, err := filepath.EvalSymlinks(dir); err == nil && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// inDriverDir is the directory in a runtime with the driver of one of driverDirs.
func inDriverDir(i int) string { return filepath.Join(driverDir, strconv.Itoa(i)) }

// driverOperations lists the operations of lull-layout that make driverDir. The symlinks of the
// host, such as those of alternatives, are resolved, as they may lead to other files here.
func driverOperations() (operations []string) {
	for i, dir := range driverDirs() {
		if i == 0 {
			operations = append(operations, "dir", driverDir)
		}
		to := inDriverDir(i)
		operations = append(operations, "dir", to, "dir", filepath.Join(to, "gbm"))
		for _, sub := range []string{"", "vdpau", "gbm"} {
			names, err := readNames(filepath.Join(dir, sub))
			if err != nil {
				continue // it has no such directory
			}
			slices.Sort(names)
			for _, name := range names {
				if !strings.Contains(name, ".so") || !slices.ContainsFunc(driverNames, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
					continue
				}
				target, err := filepath.EvalSymlinks(filepath.Join(dir, sub, name))
				if err != nil {
					continue // a symlink to nothing
				}
				at := filepath.Join(to, name)
				if sub == "gbm" {
					at = filepath.Join(to, sub, name)
				}
				operations = append(operations, "link", filepath.Join("/", hostRoot, target), at)
			}
		}
	}
	return operations
}

// driverPlaces returns the files of the host that lead the loaders of a runtime in dir to the driver.
func driverPlaces(dir string) map[string]string {
	places := map[string]string{}
	if fi, err := os.Stat(filepath.Join(dir, "usr/share")); err != nil || !fi.IsDir() || len(driverDirs()) == 0 {
		return places
	}
	for _, config := range driverConfigs {
		names, err := readNames(config[0])
		if err != nil {
			continue // the host has none
		}
		for _, name := range names {
			from := filepath.Join(config[0], name)
			if fi, err := os.Stat(from); strings.Contains(name, "nvidia") && err == nil && fi.Mode().IsRegular() {
				places[filepath.Join(config[1], name)] = from
			}
		}
	}
	return places
}

// withDrivers returns the package's variables with those by which programs in a runtime find
// the host's drivers. A variable that the package sets to a value of its own stays.
func (l *launch) withDrivers(vars map[string]manifest.Variable) map[string]manifest.Variable {
	dirs := driverDirs()
	if l.root == "" || len(dirs) == 0 {
		return vars
	}
	vars = maps.Clone(vars)
	if vars == nil {
		vars = map[string]manifest.Variable{}
	}
	var libraries, backends []string
	for i := range dirs {
		libraries = append(libraries, filepath.Join("/", inDriverDir(i)))
		backends = append(backends, filepath.Join("/", inDriverDir(i), "gbm"))
	}
	for _, dir := range libraryDirs { // Mesa's, which the variable replaces
		if fi, err := os.Stat(filepath.Join(l.root, dir, "gbm")); err == nil && fi.IsDir() {
			backends = append(backends, filepath.Join(dir, "gbm"))
		}
	}
	if v := vars["LD_LIBRARY_PATH"]; v.Value == "" {
		v.Append = slices.Concat(v.Append, libraries)
		vars["LD_LIBRARY_PATH"] = v
	}
	if _, set := vars["GBM_BACKENDS_PATH"]; !set {
		vars["GBM_BACKENDS_PATH"] = manifest.Variable{Value: strings.Join(backends, ":")}
	}
	return vars
}
