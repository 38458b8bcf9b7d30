/* The header compiles alone, as every language it is meant for, and says what the ABI is. */
#include <qcontext.h>

#ifdef __cplusplus
#define ASSERT_ABI(name, condition) static_assert(condition, #name)
#else
#define ASSERT_ABI(name, condition) extern char assert_abi_##name[(condition) ? 1 : -1]
#endif

ASSERT_ABI(notifier_size, sizeof(QContextNotifier) == 3 * sizeof(int));
ASSERT_ABI(timer_size, sizeof(QContextTimer) == 4 * sizeof(void *) + 16);
ASSERT_ABI(timer_scale, G_STRUCT_OFFSET(QContextTimer, scale) == 4 * sizeof(void *));
ASSERT_ABI(ops_size, sizeof(QContextFdOps) == 11 * sizeof(void *));
ASSERT_ABI(ops_flags, G_STRUCT_OFFSET(QContextFdOps, flags) == 7 * sizeof(void *));
ASSERT_ABI(edge, QCONTEXT_FD_EDGE_TRIGGERED == 1);
ASSERT_ABI(clocks, QCONTEXT_CLOCK_REALTIME == 0 && QCONTEXT_CLOCK_VIRTUAL == 1 && QCONTEXT_CLOCK_HOST == 2
           && QCONTEXT_CLOCK_VIRTUAL_RT == 3);
ASSERT_ABI(caller_errors, QCONTEXT_ERROR_INVALID_ARGUMENT == 100 && QCONTEXT_ERROR_WOULD_DEADLOCK == 104);
ASSERT_ABI(state_errors, QCONTEXT_ERROR_NOT_FOUND == 200 && QCONTEXT_ERROR_DEVICE_NOT_FOUND == 206
           && QCONTEXT_ERROR_CANCELLED == 207);
ASSERT_ABI(system_errors, QCONTEXT_ERROR_OS == 300 && QCONTEXT_ERROR_PROTOCOL == 302
           && QCONTEXT_ERROR_PANICKED == 303);

int main(void)
{
    return qcontext_version() == QCONTEXT_VERSION ? 0 : 1;
}
