# Installed as /etc/profile.d/lull.sh: the same as environment.d does, for log-ins without systemd. The applications of the
# system's agent come before those of the user's own. After a removal of
# lull's package this file stays until the purge, and does nothing.
if command -v lull >/dev/null; then
	for lull_exports in /var/lib/lull/exports ${HOME:+"${XDG_STATE_HOME:-$HOME/.local/state}/lull/exports"}; do
		case ":$PATH:" in
		*:"$lull_exports/bin":*) ;;
		*) PATH="$PATH:$lull_exports/bin" ;;
		esac
		case ":${XDG_DATA_DIRS:-}:" in
		*:"$lull_exports/share":*) ;;
		*) XDG_DATA_DIRS="${XDG_DATA_DIRS:-/usr/local/share:/usr/share}:$lull_exports/share" ;;
		esac
		case ":${XDG_CONFIG_DIRS:-}:" in
		*:"$lull_exports/etc/xdg":*) ;;
		*) XDG_CONFIG_DIRS="${XDG_CONFIG_DIRS:-/etc/xdg}:$lull_exports/etc/xdg" ;;
		esac
	done
	unset lull_exports
	export PATH XDG_DATA_DIRS XDG_CONFIG_DIRS
fi
