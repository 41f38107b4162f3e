/* What pinned memory is made of: "secret", "plain" (direct reads do not fail), "mixed", "none". */
#ifndef HOST_H
#define HOST_H

const char *pinned_backing(void);

#endif
