// A sched_yield for LD_PRELOAD that can rest instead of spinning.
//
// Symptom: while a graph runs, OneFlow's scheduler thread calls sched_yield in a loop, a third of a
// core's time, which the compute threads of a small machine lack. Calls from other libraries, the
// OpenMP pool's among them, stay what they are.
#define _GNU_SOURCE
#include <link.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// How long a call from OneFlow rests; 0, as at the start, is a plain sched_yield. Set by
// projects/MAE/utils/compat.py once a graph is compiled.
int mae_scheduler_rest_microseconds = 0;

static uintptr_t first, last;  // the addresses of OneFlow's library

static int find_oneflow(struct dl_phdr_info* info, size_t size, void* unused) {
  (void)size, (void)unused;
  if (!strstr(info->dlpi_name, "/liboneflow-")) return 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr)* header = &info->dlpi_phdr[i];
    if (header->p_type == PT_LOAD && (header->p_flags & PF_X)) {
      first = info->dlpi_addr + header->p_vaddr;
      last = first + header->p_memsz;
    }
  }
  return 1;
}

int sched_yield(void) {
  const int rest = __atomic_load_n(&mae_scheduler_rest_microseconds, __ATOMIC_RELAXED);
  if (rest > 0) {
    if (!first) dl_iterate_phdr(find_oneflow, NULL);
    const uintptr_t caller = (uintptr_t)__builtin_return_address(0);
    if (caller >= first && caller < last) {
      const struct timespec time = {0, rest * 1000L};
      return nanosleep(&time, NULL);
    }
  }
  return (int)syscall(SYS_sched_yield);
}
