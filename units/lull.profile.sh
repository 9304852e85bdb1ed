# Installed as /etc/profile.d/lull.sh: the same as environment.d does, for log-ins without systemd.
case ":$PATH:" in
*:/var/lib/lull/exports/bin:*) ;;
*) PATH="$PATH:/var/lib/lull/exports/bin" ;;
esac
case ":${XDG_DATA_DIRS:-}:" in
*:/var/lib/lull/exports/share:*) ;;
*) XDG_DATA_DIRS="/var/lib/lull/exports/share:${XDG_DATA_DIRS:-/usr/local/share:/usr/share}" ;;
esac
export PATH XDG_DATA_DIRS
