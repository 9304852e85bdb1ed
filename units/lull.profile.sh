# Installed as /etc/profile.d/lull.sh: the same as environment.d does, for log-ins without systemd.
case ":$PATH:" in
*:/var/lib/lull/exports/bin:*) ;;
*) PATH="$PATH:/var/lib/lull/exports/bin" ;;
esac
case ":${XDG_DATA_DIRS:-}:" in
*:/var/lib/lull/exports/share:*) ;;
*) XDG_DATA_DIRS="${XDG_DATA_DIRS:-/usr/local/share:/usr/share}:/var/lib/lull/exports/share" ;;
esac
case ":${XDG_CONFIG_DIRS:-}:" in
*:/var/lib/lull/exports/etc/xdg:*) ;;
*) XDG_CONFIG_DIRS="${XDG_CONFIG_DIRS:-/etc/xdg}:/var/lib/lull/exports/etc/xdg" ;;
esac
export PATH XDG_DATA_DIRS XDG_CONFIG_DIRS
