/* Keeps the listening ports of a run on one machine from other machines.
 *
 * OneFlow listens on every address of a machine and has no setting for it. Preloaded before it,
 * this library binds to the loopback address wherever a program asks for every address.
 * tools/setup.sh builds it, tools/train.sh preloads it where there is one machine.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

static const struct in6_addr MAPPED_LOOPBACK = {
    {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1}}};

static int for_ipv6_only(int socket) {
  int only = 0;
  socklen_t size = sizeof only;
  return getsockopt(socket, IPPROTO_IPV6, IPV6_V6ONLY, &only, &size) == 0 && only;
}

int bind(int socket, const struct sockaddr *address, socklen_t size) {
  static int (*next)(int, const struct sockaddr *, socklen_t);
  if (next == NULL) next = (int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "bind");
  if (address != NULL && address->sa_family == AF_INET && size >= sizeof(struct sockaddr_in)) {
    struct sockaddr_in own;
    memcpy(&own, address, sizeof own);
    if (own.sin_addr.s_addr == htonl(INADDR_ANY)) own.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return next(socket, (struct sockaddr *)&own, sizeof own);
  }
  if (address != NULL && address->sa_family == AF_INET6 && size >= sizeof(struct sockaddr_in6)) {
    struct sockaddr_in6 own;
    memcpy(&own, address, sizeof own);
    if (IN6_IS_ADDR_UNSPECIFIED(&own.sin6_addr)) {
      own.sin6_addr = for_ipv6_only(socket) ? in6addr_loopback : MAPPED_LOOPBACK;
    }
    return next(socket, (struct sockaddr *)&own, sizeof own);
  }
  return next(socket, address, size);
}
