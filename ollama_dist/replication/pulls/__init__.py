"""What clients pull: from members first, from the upstream registry once for the cluster; and the mirror."""
