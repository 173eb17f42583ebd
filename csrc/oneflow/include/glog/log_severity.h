// OneFlow's headers include glog's, of which its package lacks this one: the few names they use.
#pragma once

typedef int LogSeverity;

const int GLOG_INFO = 0, GLOG_WARNING = 1, GLOG_ERROR = 2, GLOG_FATAL = 3, NUM_SEVERITIES = 4;
const int INFO = GLOG_INFO, WARNING = GLOG_WARNING, ERROR = GLOG_ERROR, FATAL = GLOG_FATAL;

#ifdef NDEBUG
#define DFATAL_LEVEL GLOG_ERROR
#else
#define DFATAL_LEVEL GLOG_FATAL
#endif
