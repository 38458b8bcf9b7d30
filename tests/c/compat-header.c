/* The compatibility header compiles alone, at both levels, and its shared state is one in all files of a program. */
#include <qcontext-compat.h>

#ifdef __cplusplus
extern "C"
#endif
int *other_file_state(void);

#ifdef SECOND_FILE
int *other_file_state(void)
{
    return &qcontext_compat_initialized;
}
#else
int main(void)
{
    return other_file_state() == &qcontext_compat_initialized ? 0 : 1;
}
#endif
