/* Whether aclInit has been called. */
#ifndef START_H
#define START_H

int is_initialized(void);

#endif
