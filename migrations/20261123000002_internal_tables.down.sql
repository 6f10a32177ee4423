DROP TABLE _gaps;
DROP TABLE _rejections;
DROP TABLE _positions;
DROP TABLE _session_messages;
