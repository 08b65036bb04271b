"""Files and folders, local, in a bucket or behind http(s): listed, read, written."""
